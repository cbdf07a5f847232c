"""A bot that answers: `bot.py USERNAME PASSWORD [URL]`. Needs chatbe's Python client (clients/python).

It answers every message that is written to it, once, also those that came while it was not running:
what it has dealt with is kept in USERNAME.sqlite3, in the folder where it runs.
"""

import asyncio
import contextlib
import sys

from chatbe_client import Client, ContactChanged, FileStorage, Message, MessageReceived, Refused


def answer(message: Message) -> str:
    """What the bot has to say; put yours here."""
    words = (message.body or "").split()
    match [word.lower() for word in words]:
        case ["help"]:
            return "Say “count” and some words, or anything else to hear it again."
        case ["count", *rest]:
            return f"{len(rest)} words"
        case _:
            return f"You said: {message.body}"


async def main(username: str, password: str, url: str = "http://127.0.0.1:8000") -> None:
    """Answer until it is interrupted."""
    storage = FileStorage(f"{username}.sqlite3")
    async with Client(url, username, password, storage=storage) as chat:
        print(f"* {username} listens; {len(await chat.contacts())} contacts", flush=True)
        async for event in chat:
            match event:
                case ContactChanged(added=True):
                    # Whoever added the bot may be answered.
                    await chat.add_contact(event.username)
                case MessageReceived(message=message, new=True) if is_for_me(message, username):
                    await reply(chat, message)


def is_for_me(message: Message, username: str) -> bool:
    """A text by somebody else, which was not deleted meanwhile."""
    return message.kind == "text" and message.body is not None and message.sender != username


async def reply(chat: Client, message: Message) -> None:
    """Answer a message, and mark it as read."""
    chat.mark(message.conversation, read=message.seq)
    try:
        # The message's own id: whatever is cut off or killed, and begun again, one message has one answer.
        await chat.send(
            answer(message), conversation=message.conversation, reply_to=message.seq, client_id=message.id
        )
    except Refused as error:
        print(f"! no answer to {message.sender}: {error.detail}", flush=True)
    else:
        print(f"  answered {message.sender}", flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
