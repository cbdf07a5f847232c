"""Whether this process is alive, and whether it can serve."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import redis
from django.conf import settings
from django.db import connection, connections
from django.http import HttpRequest, HttpResponse, JsonResponse

from chatbe.core.metrics import exposition, samples
from chatbe.hub import node, siblings

logger = logging.getLogger("chatbe.health")

PATIENCE = 2.0
"""Seconds in which a dependency has answered."""
_asking = ThreadPoolExecutor(1, "chatbe-readiness")
"""One thread: while it waits for a database that hangs, further questions need not."""


def healthz(_request: HttpRequest) -> JsonResponse:
    """`{status: "ok"}` as long as the process answers at all."""
    return JsonResponse({"status": "ok"})


def readyz(_request: HttpRequest) -> JsonResponse:
    """200 when every dependency answers, else 503; `checks` says which does not."""
    checks: dict[str, Callable[[], None]] = {"database": _ask_database}
    if settings.REDIS_URLS:
        checks["redis"] = _ask_redis
    results = {name: _answer(name, check) for name, check in checks.items()}
    running = node.current()
    if running is not None and running.draining:
        results["node"] = "draining"
    ready = all(result == "ok" for result in results.values())
    response = JsonResponse(
        {"status": "ok" if ready else "unavailable", "checks": results}, status=200 if ready else 503
    )
    if not ready:
        response["Retry-After"] = "2"
    return response


def metrics(_request: HttpRequest) -> HttpResponse:
    """Prometheus' text format, of all workers; without a node (no socket yet) only the process's own figures."""
    running = node.current()
    name, sources = (running.id, running.metrics) if running is not None else ("", [])
    body = exposition({name: samples(sources), **siblings.others()})
    return HttpResponse(body, content_type="text/plain; version=0.0.4; charset=utf-8")


def _answer(name: str, check: Callable[[], None]) -> str:
    try:
        check()
    except Exception as error:  # noqa: BLE001 - whatever the driver raises means the same: it does not answer
        logger.warning(
            "dependency does not answer", extra={"dependency": name, "reason": type(error).__name__}
        )
        return "unavailable"
    return "ok"


def _ask_database() -> None:
    asking = _asking.submit(_select)
    try:
        asking.result(PATIENCE)
    finally:
        asking.cancel()


def _select() -> None:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        connections.close_all()


def _ask_redis() -> None:
    for url in settings.REDIS_URLS:
        with redis.Redis.from_url(url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE) as client:
            client.ping()
