"""The links between the processes: what is delayed keeps its order, what is frozen goes on, what is cut is gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.proxy import Link

pytestmark = [pytest.mark.pure, pytest.mark.asyncio]

PATIENCE = 10.0


class Echo(asyncio.Protocol):
    """A server's connection that returns what it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@pytest_asyncio.fixture
async def link() -> AsyncIterator[Link]:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    link = await Link(server.sockets[0].getsockname()[1]).open()
    yield link
    link.close()
    server.close()


async def connect(link: Link) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", link.port)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_data_passes_both_ways(link: Link) -> None:
    reader, writer = await connect(link)
    data = bytes(range(256)) * 10_000
    writer.write(data)
    assert await asyncio.wait_for(reader.readexactly(len(data)), PATIENCE) == data
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    await close(writer)


async def test_what_is_delayed_keeps_its_order_when_the_delay_ends(link: Link) -> None:
    reader, writer = await connect(link)
    sent = bytearray()
    for number in range(200):
        link.delay = 0.03 if number % 7 < 3 else 0.0
        piece = b"%d," % number
        sent += piece
        writer.write(piece)
        await asyncio.sleep(0.002)
    assert await asyncio.wait_for(reader.readexactly(len(sent)), PATIENCE) == sent
    await close(writer)


@pytest.mark.parametrize("way", ["there", "back"])
async def test_a_frozen_way_passes_nothing_until_it_thaws(link: Link, way: str) -> None:
    reader, writer = await connect(link)
    writer.write(b"before")
    assert await asyncio.wait_for(reader.readexactly(6), PATIENCE) == b"before"
    link.freeze("there" if way == "there" else "back")
    writer.write(b"during")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(reading := asyncio.create_task(reader.readexactly(6))), 0.2)
    link.thaw()
    assert await asyncio.wait_for(reading, PATIENCE) == b"during"
    await close(writer)


async def test_a_cut_is_felt_and_new_connections_pass_unless_refused(link: Link) -> None:
    reader, writer = await connect(link)
    writer.write(b"x")
    await asyncio.wait_for(reader.readexactly(1), PATIENCE)
    assert link.connections == 1
    link.cut()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.readexactly(1), PATIENCE)
    await close(writer)
    link.refusing = True
    refused, refused_writer = await connect(link)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(refused.readexactly(1), PATIENCE)
    await close(refused_writer)
    link.heal()
    again, again_writer = await connect(link)
    again_writer.write(b"y")
    assert await asyncio.wait_for(again.readexactly(1), PATIENCE) == b"y"
    await close(again_writer)


async def test_data_can_be_altered_on_the_way_there(link: Link) -> None:
    reader, writer = await connect(link)
    link.alter = lambda data: data.replace(b"cat", b"dog")
    writer.write(b"a cat")
    assert await asyncio.wait_for(reader.readexactly(5), PATIENCE) == b"a dog"
    await close(writer)
