"""Questions of many sockets that are asked at about the same time, answered together.

While some are being answered, those that come gather and are the next call: a wave of clients
that come back takes few trips to the threads and to the database, and a lone one waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from chatbe.core.errors import ChatError

if TYPE_CHECKING:
    from chatbe.hub.node import Node

Question = TypeVar("Question")
Answer = TypeVar("Answer")

AT_ONCE = 2
"""Calls of one gathering under way: one is answered while the answers of the other are used."""
TOGETHER = 16
"""Questions in one call at most; it bounds what one call holds in memory."""


class Gathering(Generic[Question, Answer]):
    """Asks `function`, blocking, a list of questions at a time; it returns their answers in the same order."""

    def __init__(self, node: Node, function: Callable[[list[Question]], list[Answer]]) -> None:
        self._node = node
        self._function = function
        self._waiting: deque[tuple[Question, asyncio.Future[Answer]]] = deque()
        self._calls = 0

    async def ask(self, question: Question) -> Answer:
        """The answer to one question. Raises what the call raised: `Unavailable` when the database fails."""
        answer: asyncio.Future[Answer] = self._node.loop.create_future()
        self._waiting.append((question, answer))
        if self._calls < AT_ONCE:
            self._calls += 1
            self._node.spawn(self._call())
        return await answer

    async def _call(self) -> None:
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]
                if asked := [entry for entry in taken if not entry[1].done()]:
                    await self._answer(asked)
        finally:
            self._calls -= 1

    async def _answer(self, asked: list[tuple[Question, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._node.call(self._function, [question for question, _ in asked])
        except ChatError as error:
            for _, answer in asked:
                _fail(answer, error)
        except Exception as error:  # noqa: BLE001 - it is raised where it was asked
            if len(asked) == 1:
                _fail(asked[0][1], error)
                return
            # One question that cannot be answered takes no other's answer away.
            for entry in asked:
                await self._answer([entry])
        except BaseException:
            for _, answer in asked:
                answer.cancel()
            raise
        else:
            for (_, answer), value in zip(asked, answers, strict=True):
                if not answer.done():
                    answer.set_result(value)


def _fail(answer: asyncio.Future[Answer], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
