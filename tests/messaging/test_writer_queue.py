"""The writer's queue: who waits for what, who overtakes nobody, and what is said when nothing answers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from chatbe.core.errors import Unavailable
from messaging import writer
from messaging.writer import Item, Verdict, Writer, settle
from messaging.writer.base import BatchFailed, DatabaseAway, Outcome
from tests.support.hubs import VirtualLoop

pytestmark = pytest.mark.pure


class Store:
    """A backend in memory whose conversations can be locked and which can stop answering."""

    def __init__(self) -> None:
        self.locked: set[str] = set()
        self.frozen = False
        self.away = False
        self.batches: list[tuple[list[str], bool]] = []
        self.stored: list[str] = []
        self.poisoned: set[str] = set()
        self._unanswered: list[Callable[[], None]] = []

    def commit(self, batch: Any, *, now: datetime, policy: str, wait: bool) -> list[Verdict]:
        self.batches.append(([item.body for item in batch], wait))
        if self.away:
            raise DatabaseAway
        if self.poisoned & {item.body for item in batch}:
            raise BatchFailed
        verdicts = []
        for item in batch:
            if item.conversation in self.locked:
                verdicts.append(Verdict("locked"))
            else:
                self.stored.append(item.body)
                verdicts.append(Verdict("ok", len(self.stored), len(self.stored), item.id))
        return verdicts

    def begin(
        self, batch: Any, *, now: datetime, policy: str, wait: bool, done: Callable[[Outcome], None]
    ) -> None:
        def answer() -> None:
            try:
                outcome: Outcome = self.commit(batch, now=now, policy=policy, wait=wait)
            except (BatchFailed, DatabaseAway) as error:
                outcome = error
            # Who waits for a lock waits.
            delay = 0.2 if wait and {item.conversation for item in batch} & self.locked else 0.001
            asyncio.get_running_loop().call_later(delay, done, outcome)

        if self.frozen:
            self._unanswered.append(answer)
        else:
            answer()

    def thaw(self) -> None:
        self.frozen = False
        for answer in self._unanswered:
            asyncio.get_running_loop().call_soon(answer)
        self._unanswered.clear()

    def close(self) -> None: ...


def item(body: str, conversation: str = "c", sender: str = "s", client_id: str = "") -> Item:
    return Item(str(uuid.uuid4()), conversation, sender, client_id or body, body, None)


class Desk:
    """A writer on a loop whose time jumps, and what it said of each message."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.store = Store()
        self.said: list[tuple[str, str | None]] = []
        self.times: dict[str, float] = {}
        self.writer: Writer = self.run(self._make())

    async def _make(self) -> Writer:
        return Writer(self.store, policy="contacts")

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def submit(self, *items: Item, tag: str = "") -> None:
        for each in items:
            self.writer.submit(each, partial(self._say, each.body + tag))

    def _say(self, body: str, verdict: Verdict | None) -> None:
        self.said.append((body, verdict.code if verdict else None))
        self.times[body] = self.loop.time()

    def pass_time(self, seconds: float = 1.0) -> None:
        self.run(asyncio.sleep(seconds))


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    made = Desk()
    monkeypatch.setattr(writer, "time", SimpleNamespace(monotonic=made.loop.time))
    yield made
    made.loop.close()


def test_alone_a_message_waits_for_nothing_and_what_comes_meanwhile_is_one_batch(desk: Desk) -> None:
    desk.submit(item("1"))
    desk.pass_time(0.0)
    desk.pass_time(0.0)
    desk.submit(item("2"), item("3"), item("4"))
    desk.pass_time()
    assert [bodies for bodies, _ in desk.store.batches] == [["1"], ["2", "3", "4"]]


def test_a_repeat_while_the_first_is_under_way_is_answered_with_it(desk: Desk) -> None:
    desk.submit(item("1", client_id="k"))
    desk.submit(item("1", client_id="k"), tag="'")
    desk.pass_time()
    assert desk.said == [("1", "ok"), ("1'", "repeat")]
    assert desk.store.stored == ["1"]


def test_a_full_queue_refuses_at_once(desk: Desk) -> None:
    desk.writer._capacity = 3
    desk.store.frozen = True
    desk.submit(*(item(str(number)) for number in range(3)))
    with pytest.raises(Unavailable) as refusal:
        desk.submit(item("one too many"))
    assert refusal.value.code == "unavailable"
    desk.pass_time(0.1)
    desk.run(_soon(desk.store.thaw))
    desk.pass_time()
    assert [code for _, code in desk.said] == ["ok"] * 3
    desk.submit(item("room again"))


async def _soon(act: Callable[[], None]) -> None:
    act()


def test_a_database_that_stops_answering_is_away_for_all_once_a_deadline_has_passed(desk: Desk) -> None:
    desk.store.frozen = True
    desk.submit(item("first"))
    desk.pass_time(5.0)
    desk.submit(item("second"))
    desk.pass_time(desk.writer._deadline - 5.0 + 1.5)
    assert desk.said == [("first", None)]
    for _ in range(20):
        # As long as it does not answer: at once, also for who asks again.
        with pytest.raises(Unavailable) as refusal:
            desk.submit(item("later"))
        assert refusal.value.retry_after
        desk.pass_time(0.7)
    assert desk.said == [("first", None), ("second", None)]
    desk.run(_soon(desk.store.thaw))
    desk.pass_time()
    assert desk.store.stored == ["first", "second"], "what was taken is finished, and found by the question"
    desk.submit(item("after"))
    desk.pass_time()
    assert desk.said[-1] == ("after", "ok")


def test_whoever_asks_again_for_what_is_in_doubt_is_answered(desk: Desk) -> None:
    desk.store.frozen = True
    desk.submit(item("first", client_id="k"))
    desk.pass_time(desk.writer._deadline + 1.5)
    desk.writer._away_until = 0.0
    with pytest.raises(Unavailable):
        desk.submit(item("first", client_id="k"), tag="'")
    desk.run(_soon(desk.store.thaw))
    desk.pass_time()
    desk.submit(item("first", client_id="k"), tag="''")
    desk.pass_time()
    assert desk.said == [("first", None), ("first''", "ok")]


def test_a_lost_database_refuses_for_a_moment_only(desk: Desk) -> None:
    desk.store.away = True
    desk.submit(item("1"), item("2"))
    desk.pass_time(0.1)
    assert desk.said == [("1", None), ("2", None)]
    with pytest.raises(Unavailable):
        desk.submit(item("3"))
    desk.store.away = False
    desk.pass_time(writer.AWAY_PAUSE)
    desk.submit(item("3"))
    desk.pass_time(0.1)
    assert desk.said[-1] == ("3", "ok")


def test_a_locked_conversation_holds_up_nobody_and_keeps_its_order(desk: Desk) -> None:
    desk.store.locked = {"locked"}
    began = desk.loop.time()
    for number in range(40):
        desk.submit(item(f"l{number}", "locked"), item(f"f{number}", "free"))
        desk.pass_time(0.05)
    free = [body for body, code in desk.said if code == "ok"]
    assert free == [f"f{number}" for number in range(40)]
    waits = [desk.times[f"f{number}"] - began - number * 0.05 for number in range(40)]
    assert max(waits) < 0.3, "no longer than one wait for the lock"
    assert sorted(waits)[len(waits) // 2] < 0.05, "and seldom that"
    desk.store.locked.clear()
    desk.pass_time()
    assert [body for body in desk.store.stored if body[0] == "l"] == [f"l{number}" for number in range(40)]


def test_many_locked_messages_leave_room_in_the_batches(desk: Desk) -> None:
    desk.store.locked = {"locked"}
    desk.submit(*(item(f"l{number}", "locked") for number in range(3 * desk.writer._batch_size)))
    desk.submit(item("free", "free"))
    desk.pass_time(0.3)
    assert desk.said == [("free", "ok")]
    desk.store.locked.clear()
    desk.pass_time()
    assert desk.store.stored[1:] == [f"l{number}" for number in range(3 * desk.writer._batch_size)]


def test_a_lock_that_outlasts_the_deadline_is_told_and_makes_nobody_else_wait(desk: Desk) -> None:
    desk.store.locked = {"locked"}
    desk.submit(item("locked", "locked"))
    while ("locked", None) not in desk.said:
        desk.submit(item(str(desk.loop.time()), "free"))
        desk.pass_time(0.5)
    desk.submit(item("after", "free"))
    desk.pass_time(0.5)
    assert desk.said[-1] == ("after", "ok")
    assert desk.store.stored[-1] == "after"
    assert {code for body, code in desk.said if body != "locked"} == {"ok"}


def test_halves_of_a_poisoned_batch_keep_the_order_of_a_locked_conversation() -> None:
    """The lock may be let go of between the halves."""

    class Contended(Store):
        def commit(self, batch: Any, **options: Any) -> list[Verdict]:
            verdicts = super().commit(batch, **options)
            self.locked.clear()
            return verdicts

    store = Contended()
    store.poisoned, store.locked = {"poison"}, {"c"}
    batch = [item("1"), item("poison", "other"), item("2"), item("free", "other"), item("3")]
    verdicts = settle(store, batch, policy="contacts", wait=False)
    assert [verdict and verdict.code for verdict in verdicts] == [
        "locked", "invalid", "locked", "ok", "locked",
    ]  # fmt: skip
    assert store.stored == ["free"]


def test_a_stop_finishes_what_was_taken(desk: Desk) -> None:
    desk.submit(*(item(str(number)) for number in range(1000)))
    desk.run(desk.writer.stop())
    assert [code for _, code in desk.said] == ["ok"] * 1000


class Blocking:
    """A backend that wants a thread."""

    def commit(self, batch: Any, *, now: datetime, policy: str, wait: bool) -> list[Verdict]:
        return [Verdict("ok", 1, 1, item.id) for item in batch]

    def close(self) -> None: ...


def test_who_comes_after_the_stop_is_refused_at_once() -> None:
    """A request over HTTP may be on its way while the sockets are drained."""

    async def come_late() -> None:
        late = Writer(Blocking(), policy="contacts")
        answered = asyncio.get_running_loop().create_future()
        late.submit(item("in time"), answered.set_result)
        await late.stop()
        assert (await answered).code == "ok"
        with pytest.raises(Unavailable):
            late.submit(item("late"), answered.set_result)

    asyncio.run(come_late())
