"""Clients that come back and ask for what they missed."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from benchmarks.errors import TargetError
from benchmarks.load import Client, Tally, bounded, close_all, open_clients
from benchmarks.measure import percentiles
from benchmarks.targets import Target

CONVERSATIONS = 5
"""What a client missed is spread over so many direct conversations."""
KNOWN = 20
"""Messages of each conversation that the client has already."""
MISSED = 100
AT_ONCE = 32


def names(count: int) -> list[tuple[str, str]]:
    """Each client's conversations, with people of their own."""
    return [(f"rc{number}", f"rp{number}-{peer}") for number in range(count) for peer in range(CONVERSATIONS)]


def prepare(target: Target, *, count: int) -> list[str]:
    """Make the people, and the messages; returns the conversations' ids."""
    target.people(names(count))
    conversations: list[str] = target.populate("conversations", pairs=names(count))["conversations"]
    target.populate("messages", conversations=conversations, each=KNOWN + MISSED // CONVERSATIONS)
    target.settle()
    return conversations


class Returning(Client):
    """Counts the messages that its sync brings, and says when it is complete."""

    missed = 0

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        """Count messages here: they were sent by nobody of this run."""
        data = frame.get_payload_as_bytes()
        if data.startswith(self.dialect.message):
            self.missed += 1
        else:
            super().on_ws_frame(transport, frame)


async def catch_up(target: Target, *, count: int, conversations: list[str]) -> dict[str, Any]:
    """CPU per message of a sync that names every conversation and misses `MISSED` messages in all.

    The sockets are open and signed in before the measurement: it starts with `sync` and ends with `synced`.
    """
    tally = Tally()

    def make() -> Returning:
        client = Returning(target.dialect, tally)
        client.only_sign_in()
        return client

    clients: list[Client] = await open_clients(target.urls([f"rc{number}" for number in range(count)]), make)
    durations: list[float] = []

    async def sync(client: Client, named: list[str]) -> None:
        start = time.perf_counter()
        places = ",".join(f'"{conversation}":{KNOWN}' for conversation in named)
        await client.begin(f'{{"type":"sync","ref":"s","conversations":{{{places}}}}}'.encode())
        durations.append(time.perf_counter() - start)

    named = [
        conversations[first : first + CONVERSATIONS] for first in range(0, len(conversations), CONVERSATIONS)
    ]
    with target.measured() as meter:
        await bounded([partial(sync, *who) for who in zip(clients, named, strict=True)], AT_ONCE)
    wrong = [client.missed for client in clients if isinstance(client, Returning) and client.missed != MISSED]
    await close_all(clients)
    if wrong or tally.errors:
        raise TargetError(
            f"{target.name}: {len(wrong)} clients got {wrong[:3]} of {MISSED} messages; {tally.errors[:1]}"
        )
    return {
        "cpu_us_per_message": meter.micros_per(count * MISSED),
        "clients": count,
        "messages": count * MISSED,
        "seconds": round(meter.elapsed, 2),
        "sync_ms": percentiles(durations),
    }
