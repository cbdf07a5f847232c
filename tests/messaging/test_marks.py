"""Marks that are moved together: who is told, and who is refused."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from chatbe.core.errors import ChatError, Unavailable
from chatbe.wire import frames
from messaging import handlers, services
from messaging.handlers import MessagingPart
from messaging.services import Mark

pytestmark = [pytest.mark.pure, pytest.mark.asyncio]

C = UUID("01900000-0000-7000-8000-000000000001")
USER = "01900000-0000-7000-8000-00000000000a"


class Device:
    """A socket of the one user."""

    def __init__(self, connection: str) -> None:
        self.connection = connection
        self.user_key = USER
        self.refused: list[tuple[str | None, str]] = []

    def refuse_with(self, ref: str | None, error: ChatError) -> None:
        self.refused.append((ref, error.code))


class Node:
    """Runs what is spawned; the database answers what it is told to."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def spawn(self, work: Any) -> asyncio.Task[None]:
        return asyncio.create_task(work)

    async def call(self, function: Any, *, moves: dict[tuple[str, str], tuple[int, int]]) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return {
            key: Mark(key[0], None, key[1], "bob", *move, private=False, shown=True, was_delivered=True)
            for key, move in moves.items()
        }


def part_on(answer: Any) -> MessagingPart:
    part = MessagingPart()
    part.node = Node(answer)  # type: ignore[assignment]  # what is used of it
    return part


async def move(part: MessagingPart, *asked: tuple[Device, Any]) -> None:
    for device, frame in asked:
        take = part.on_read if isinstance(frame, frames.Read) else part.on_delivered
        take(device, frame)  # type: ignore[arg-type]  # what is used of it
    assert part._marking is not None
    await part._marking


async def test_of_two_devices_each_is_told_what_the_other_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[list[Mark], str]] = []
    monkeypatch.setattr(
        services, "publish_marks", lambda marks, leave_out="": told.append((marks, leave_out))
    )
    phone, desk = Device("phone"), Device("desk")
    many = [(phone, frames.Delivered(C, seq)) for seq in range(1, 40)]
    await move(part_on(None), *many, (desk, frames.Read(C, 7)))
    await move(part_on(None), *many)
    assert [(marks[0].read, marks[0].delivered, leave_out) for marks, leave_out in told] == [
        (7, 39, ""),
        (0, 39, "phone"),
    ]


async def test_when_the_database_is_away_each_device_hears_of_it() -> None:
    phone, desk = Device("phone"), Device("desk")
    many = [(phone, frames.Delivered(C, seq, ref=str(seq))) for seq in range(1, 40)]
    await move(part_on(Unavailable()), *many, (desk, frames.Read(C, 7, ref="mine")))
    assert desk.refused == [("mine", "unavailable")]
    assert [ref for ref, _ in phone.refused] == [str(seq) for seq in range(1, handlers.MARK_REFS + 1)]
