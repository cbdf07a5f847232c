"""What operators ask a running server."""

from __future__ import annotations

import httpx

from tests.support.people import Person, befriend, new_name
from tests.support.processes import AppServer


def test_a_server_is_alive_and_ready(servers: list[AppServer], backend: str) -> None:
    assert httpx.get(f"{servers[0].url}/healthz").json() == {"status": "ok"}
    ready = httpx.get(f"{servers[0].url}/readyz")
    assert ready.status_code == 200
    assert set(ready.json()["checks"]) == ({"database", "redis"} if backend == "cluster" else {"database"})


def test_probes_come_under_any_host(servers: list[AppServer]) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        answer = httpx.get(f"{servers[0].url}{path}", headers={"Host": "10.0.0.1"})
        assert answer.status_code == 200
    foreign = httpx.get(f"{servers[0].url}/v1/schema", headers={"Host": "evil.example"})
    assert foreign.status_code == 400


def test_metrics_count_what_happens(servers: list[AppServer]) -> None:
    alice, bob = Person(servers[0].url, new_name("alice")), Person(servers[0].url, new_name("bob"))
    befriend(alice, bob)
    with alice.live() as socket:
        before = _metrics(servers[0])
        socket.message(bob.username, "counted")
        after = _metrics(servers[0])
    assert after["chatbe_messages_stored_total"] == before["chatbe_messages_stored_total"] + 1
    assert after["chatbe_sockets"] >= 1
    assert after["process_cpu_seconds_total"] > 0


def _metrics(server: AppServer) -> dict[str, float]:
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    values = {}
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name.split("{")[0]] = float(value)
    return values
