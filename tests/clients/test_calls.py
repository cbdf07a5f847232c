"""People, contacts, groups, living messages, search and files, as an application uses them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from chatbe_client import Client, Muted, Refused
from django.urls import Resolver404, resolve

from tests.clients.test_client import Pair, client_of, own_deployment, pair, server, until
from tests.support.processes import AppServer

__all__ = ["own_deployment", "pair", "server"]


def needs(path: str) -> pytest.MarkDecorator:
    """Leave a test out where this server does not have the path."""
    try:
        resolve(path)
    except Resolver404:
        there = False
    else:
        there = True
    return pytest.mark.skipif(not there, reason=f"this server has no {path}")


@pytest.mark.asyncio
async def test_people_contacts_and_blocks(pair: Pair, server: AppServer) -> None:
    async with client_of(pair.alice, server) as alice, client_of(pair.bob, server) as bob:
        assert [person.username for person in await alice.people(pair.bob)] == [pair.bob]
        await until(lambda: pair.bob in alice.state.friends)
        (contact,) = await alice.contacts()
        assert (contact.username, contact.mutual) == (pair.bob, True)
        assert contact.status is not None
        await bob.remove_contact(pair.alice)
        await until(lambda: pair.bob not in alice.state.friends)
        assert not (await alice.contacts())[0].mutual
        assert (await bob.add_contact(pair.alice)).mutual
        await bob.block(pair.alice)
        assert await bob.blocks() == [pair.alice]
        with pytest.raises(Refused) as refused:
            await alice.send("hello?", to=pair.bob)
        assert refused.value.code == "blocked"
        await bob.unblock(pair.alice)
        await alice.send("hello!", to=pair.bob)


@pytest.mark.asyncio
async def test_a_group_from_its_making_to_its_end(pair: Pair, server: AppServer) -> None:
    async with client_of(pair.alice, server) as alice, client_of(pair.bob, server) as bob:
        group = await alice.create_group("Tea", [pair.bob], description="Every day at four.")
        assert (group.kind, group.title, group.role, set(group.usernames)) == (
            "group",
            "Tea",
            "owner",
            set(pair),
        )
        await until(lambda: group.id in bob.state.conversations)
        ack = await bob.send(f"Is the kettle on, @{pair.alice}?", conversation=group.id)
        assert ack.mentions == (pair.alice,)
        held = alice.state.conversation(group.id)
        await until(lambda: ack.seq in held.messages)
        (found,) = await alice.conversations()
        assert (found.id, found.unread, found.last_message) == (group.id, 1, held.messages[ack.seq])
        alice.mark(group.id, read=ack.seq)
        await until(lambda: bob.state.conversation(group.id).marks.get(pair.alice, (0, 0))[0] == ack.seq)
        assert await bob.readers(group.id, ack.seq) == [pair.alice]
        await alice.change_group(group.id, title="Coffee")
        await until(lambda: (bob.state.conversation(group.id).info or {})["title"] == "Coffee")
        await alice.set_role(group.id, pair.bob, "admin")
        assert await bob.members(group.id) == {pair.alice: "owner", pair.bob: "admin"}
        await bob.remove_member(group.id, pair.bob)
        await until(lambda: group.id not in bob.state.conversations)
        await alice.add_members(group.id, [pair.bob])
        await until(lambda: group.id in bob.state.conversations)
        await alice.dissolve_group(group.id)
        await until(lambda: group.id not in bob.state.conversations)


@pytest.mark.asyncio
async def test_messages_live(pair: Pair, server: AppServer) -> None:
    async with client_of(pair.alice, server) as alice, client_of(pair.bob, server) as bob:
        first = await alice.send("helo", to=pair.bob)
        place = (first.conversation, first.seq)
        assert (await alice.open_direct(pair.bob)).id == first.conversation
        assert (await alice.edit(*place, "hello")).rev > first.rev
        await bob.react(*place, "👋")
        held = bob.state.conversation(first.conversation).messages
        await until(lambda: held[1].body == "hello" and held[1].reactions["👋"]["usernames"] == [pair.bob])
        reply = await bob.send("and hello to you", conversation=first.conversation, reply_to=1)
        await until(lambda: alice.state.conversation(first.conversation).messages.keys() == {1, 2})
        assert alice.state.conversation(first.conversation).messages[reply.seq].reply_to == 1
        await bob.react(*place, "👋", on=False)
        await alice.delete(*place)
        await until(lambda: held[1].body is None)
        assert (await bob.history(first.conversation, limit=1))[0].seq == reply.seq
        await until(lambda: alice.state.conversation(first.conversation).messages == held)


@pytest.mark.asyncio
async def test_muting_reaches_ones_other_devices(pair: Pair, server: AppServer) -> None:
    async with client_of(pair.alice, server) as alice, client_of(pair.alice, server) as phone:
        direct = (await alice.send("hello", to=pair.bob)).conversation
        await alice.mute(direct, "2100-01-01T00:00:00Z")
        await until(lambda: phone.state.conversation(direct).muted_until is not None)
        assert (await phone.overview(direct)).muted_until == phone.state.conversation(direct).muted_until
        await phone.mute(direct, None)
        async with asyncio.timeout(20):
            async for event in alice:
                if isinstance(event, Muted) and event.until is None:
                    break


@needs("/v1/search")
@pytest.mark.asyncio
async def test_what_was_said_is_found(pair: Pair, server: AppServer) -> None:
    async with client_of(pair.alice, server) as alice:
        ack = await alice.send("Meet me at the old mill at noon.", to=pair.bob)
        await alice.send("Or later.", to=pair.bob)
        (found,) = await alice.search("mill", conversation=ack.conversation, sender=pair.alice)
        assert found.message.seq == ack.seq
        assert ("mill", True) in found.snippet
        assert await alice.search("windmill") == []
        again = await alice.send(
            "The mill road, past the mill, then left, and on until the bend.", to=pair.bob
        )
        await alice.send("Anything else?", to=pair.bob)
        last = await alice.send(" ".join(["word"] * 60) + " mill", to=pair.bob)
        found_seqs = [each.message.seq for each in await alice.search("mill", limit=2)]
        assert found_seqs == [last.seq, again.seq]


@needs("/v1/attachments")
@pytest.mark.asyncio
async def test_a_file_is_uploaded_with_progress_and_sent(
    pair: Pair, server: AppServer, tmp_path: Path
) -> None:
    path = tmp_path / 'a "quoted" näme.txt'
    path.write_text("line\n" * 50_000)
    told: list[tuple[int, int]] = []
    async with client_of(pair.alice, server) as alice, client_of(pair.bob, server) as bob:
        file = await alice.upload(path, progress=lambda sent, size: told.append((sent, size)))
        assert (file.size, file.content_type.partition(";")[0]) == (250_000, "text/plain")
        assert told[0] == (0, 250_000)
        assert told[-1] == (250_000, 250_000)
        assert [sent for sent, _ in told] == sorted({sent for sent, _ in told})
        ack = await alice.send("", to=pair.bob, attachments=[file])
        held = bob.state.conversation(ack.conversation).messages
        await until(lambda: ack.seq in held)
        assert held[ack.seq] == alice.state.conversation(ack.conversation).messages[ack.seq]
        assert held[ack.seq].attachments[0]["id"] == file.id
        assert (await bob.attachment(file.id)).url
        with pytest.raises(Refused) as refused:
            await alice.upload(b"", name="nothing.txt")
        assert refused.value.code == "invalid"


@pytest.mark.asyncio
async def test_bytes_need_a_name() -> None:
    client = Client("http://127.0.0.1:1", "alice", "")
    with pytest.raises(ValueError, match="name"):
        await client.upload(b"bytes")
    await client.close()
