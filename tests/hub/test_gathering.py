"""Questions that are asked at about the same time share calls; each gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from chatbe.core.errors import Unavailable
from chatbe.hub import gathering
from chatbe.hub.gathering import Gathering

pytestmark = pytest.mark.pure


class Threads:
    """The node's: calls are counted, and held until `open`."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.calls: list[list[int]] = []
        self.open = asyncio.Event()
        self.tasks: list[asyncio.Task[Any]] = []

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        self.tasks.append(self.loop.create_task(coroutine))
        return self.tasks[-1]

    async def call(self, function: Callable[[list[int]], list[int]], questions: list[int]) -> list[int]:
        self.calls.append(questions)
        await self.open.wait()
        return function(questions)


def squares(numbers: list[int]) -> list[int]:
    if 13 in numbers:
        raise ValueError("13")
    if 99 in numbers:
        raise Unavailable
    return [number * number for number in numbers]


def run(test: Callable[[Threads, Gathering[int, int]], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        threads = Threads()
        node: Any = threads
        await test(threads, Gathering(node, squares))
        assert all(task.done() for task in threads.tasks)

    asyncio.run(main())


def test_a_lone_question_waits_for_nobody() -> None:
    async def test(threads: Threads, gathered: Gathering[int, int]) -> None:
        threads.open.set()
        assert await gathered.ask(3) == 9
        assert await gathered.ask(4) == 16
        await asyncio.sleep(0)
        assert threads.calls == [[3], [4]]

    run(test)


def test_what_comes_meanwhile_is_asked_together_and_in_bounds() -> None:
    async def test(threads: Threads, gathered: Gathering[int, int]) -> None:
        asked = [asyncio.ensure_future(gathered.ask(1))]
        await asyncio.sleep(0.01)
        asked += [asyncio.ensure_future(gathered.ask(number)) for number in range(100, 140)]
        await asyncio.sleep(0.01)
        assert len(threads.calls) == gathering.AT_ONCE
        threads.open.set()
        assert await asyncio.gather(*asked) == [1, *(number * number for number in range(100, 140))]
        await asyncio.sleep(0)
        assert sorted(number for call in threads.calls for number in call) == [1, *range(100, 140)]
        assert max(map(len, threads.calls)) == gathering.TOGETHER

    run(test)


def test_one_that_cannot_be_answered_takes_no_other_answer_away() -> None:
    async def test(threads: Threads, gathered: Gathering[int, int]) -> None:
        asked = [asyncio.ensure_future(gathered.ask(number)) for number in (1, 13, 2)]
        threads.open.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        await asyncio.sleep(0)
        assert answers[0] == 1
        assert isinstance(answers[1], ValueError)
        assert answers[2] == 4

    run(test)


def test_a_database_that_is_away_is_told_to_all_at_once() -> None:
    async def test(threads: Threads, gathered: Gathering[int, int]) -> None:
        asked = [asyncio.ensure_future(gathered.ask(number)) for number in (1, 99, 2)]
        threads.open.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(answer, Unavailable) for answer in answers)
        await asyncio.sleep(0)
        assert len(threads.calls) == 1
        assert await gathered.ask(5) == 25
        await asyncio.sleep(0)

    run(test)


def test_who_no_longer_waits_is_not_asked_for() -> None:
    async def test(threads: Threads, gathered: Gathering[int, int]) -> None:
        first = []
        for number in (1, 2):
            first.append(asyncio.ensure_future(gathered.ask(number)))
            await asyncio.sleep(0.01)
        gone, stays = (asyncio.ensure_future(gathered.ask(number)) for number in (3, 4))
        await asyncio.sleep(0.01)
        gone.cancel()
        first[0].cancel()
        await asyncio.sleep(0.01)
        threads.open.set()
        assert await stays == 16
        assert await first[1] == 4
        await asyncio.sleep(0.01)
        assert 3 not in [number for call in threads.calls for number in call]

    run(test)
