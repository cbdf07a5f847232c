"""Full-text search in a large database, over HTTP."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.errors import TargetError
from benchmarks.measure import percentiles
from benchmarks.targets import Target
from benchmarks.workloads.history import Http

PAGE = 50
COMMON = ("garden", "river", "coffee", "lunch", "train")
"""Each is in about every seventh message."""
ABSENT = "zebra"


def prepare(target: Target, *, messages: int) -> dict[str, str]:
    """A tenth of the messages in one conversation, the rest in others of 3,000.

    Returns the large one and one of its two, and somebody of the others, who has many.
    """
    spoken = target.populate("spoken", users=2, conversations=1, messages=messages // 10)
    rest = messages - messages // 10
    conversations = max(rest // 3000, 1)
    users = max(int((2 * conversations) ** 0.5) + 2, 4)
    others = target.populate("spoken", users=users, conversations=conversations, messages=rest)
    target.populate("search_index")
    target.settle()
    return {"conversation": spoken["conversation"], "user": spoken["user"], "many": others["user"]}


async def pages(target: Target, *, where: dict[str, str], messages: int, requests: int) -> dict[str, Any]:
    """Latency and CPU of first pages, one request at a time."""
    connections = {}
    for who in ("user", "many"):
        token = target.populate("access_token", user=where[who])["token"]
        connections[who] = Http(target.port, token)
        await connections[who].open()
    inside = f"&conversation={where['conversation']}"
    result: dict[str, Any] = {"messages": messages, "requests": requests}
    kinds = {
        "common": ([f"{word}{inside}" for word in COMMON], PAGE),
        "newest": ([f"{word}{inside}&order=newest" for word in COMMON], PAGE),
        "two_common": ([f"{word}+music{inside}" for word in COMMON], PAGE),
        "absent": ([f"{ABSENT}{inside}"], 0),
        "everywhere": (list(COMMON), PAGE),
    }
    for kind, (queries, expected) in kinds.items():
        http = connections["many" if kind == "everywhere" else "user"]
        paths = [f"/v1/search?limit={PAGE}&q={query}" for query in queries]
        for path in paths:
            await http.get(path)
        durations = []
        with target.measured() as meter:
            for number in range(requests):
                start = time.perf_counter()
                body = await http.get(paths[number % len(paths)])
                durations.append(time.perf_counter() - start)
                if body.count(b'"client_id"') != expected:
                    raise TargetError(f"{target.name}: {kind} found {body.count(b'client_id')} messages")
        result[kind] = {"latency_ms": percentiles(durations), "cpu_us_per_page": meter.micros_per(requests)}
    for http in connections.values():
        await http.close()
    return result
