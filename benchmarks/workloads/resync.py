"""Clients that come back and ask for what they missed."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.load import Client, Tally, bounded, close_all, open_clients
from benchmarks.measure import Meter, percentiles
from benchmarks.targets import Target, TargetError

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
        client.hold_hello = True
        return client

    clients: list[Client] = await open_clients(target.urls([f"rc{number}" for number in range(count)]), make)
    durations: list[float] = []

    async def sync(client: Client, named: list[str]) -> None:
        start = time.perf_counter()
        places = ",".join(f'"{conversation}":{KNOWN}' for conversation in named)
        client.say(f'{{"type":"sync","ref":"s","conversations":{{{places}}}}}'.encode())
        await client.live
        durations.append(time.perf_counter() - start)

    meter, start = Meter(target.processes), time.perf_counter()
    await bounded(
        [
            lambda client=client, named=conversations[number * CONVERSATIONS : (number + 1) * CONVERSATIONS]: sync(client, named)  # type: ignore[misc] - the defaults bind the loop's variables
            for number, client in enumerate(clients)
        ],
        AT_ONCE,
    )
    micros, elapsed = meter.micros_per(count * MISSED), time.perf_counter() - start
    wrong = [client.missed for client in clients if isinstance(client, Returning) and client.missed != MISSED]
    await close_all(clients)
    if wrong or tally.errors:
        raise TargetError(f"{target.name}: {len(wrong)} clients got {wrong[:3]} of {MISSED} messages; {tally.errors[:1]}")
    return {
        "cpu_us_per_message": micros,
        "clients": count,
        "messages": count * MISSED,
        "seconds": round(elapsed, 2),
        "sync_ms": percentiles(durations),
    }
