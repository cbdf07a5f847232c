"""`python -m chatbe_client`: chat in the terminal."""

import argparse
import asyncio
import sys
from importlib.util import find_spec


def main() -> None:
    """Read the command line, and chat until the user leaves."""
    parser = argparse.ArgumentParser(
        prog="python -m chatbe_client", description="Chat in the terminal. F1 there lists the keys."
    )
    parser.add_argument(
        "url", nargs="?", default="http://127.0.0.1:8000", help="the server (default: %(default)s)"
    )
    parser.add_argument("--user", default="", metavar="NAME", help="who signs in; the password is asked for")
    parser.add_argument(
        "--storage",
        metavar="FILE",
        help="keep the session and what is not sent yet in this file, and go on with it the next time",
    )
    arguments = parser.parse_args()
    if find_spec("prompt_toolkit") is None:
        sys.exit("The chat in the terminal needs one more package: pip install 'chatbe-client[terminal]'")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        sys.exit("The chat needs a terminal to be in.")
    from chatbe_client.terminal.app import Terminal  # noqa: PLC0415 - the client works without prompt_toolkit

    asyncio.run(Terminal(arguments.url, arguments.user, arguments.storage).run())


if __name__ == "__main__":
    main()
