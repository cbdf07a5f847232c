"""`manage.py serve` with the whole of chatbe behind it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.support.processes import ROOT, AppServer, Deployment


def serve(deployment: Deployment, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `serve` where it is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "manage.py", "serve", *arguments],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env=deployment.environment,
        text=True,
        timeout=60,
    )


def scraped_nodes(server: AppServer) -> set[str]:
    """The processes whose figures are in what `/metrics` answers."""
    families = text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text)
    return {sample.labels["node"] for family in families for sample in family.samples}


def test_a_server_answers_and_ends_with_0(deployment: Deployment) -> None:
    server = deployment.server()
    with urllib.request.urlopen(f"{server.url}/healthz", timeout=10) as answer:
        assert answer.status == 200
    with connect(f"{server.socket_url}?otp=unknown&username=nobody") as websocket:
        with pytest.raises(ConnectionClosed):
            websocket.recv(timeout=10)
        assert websocket.close_code == 4401
    assert server.terminate() == 0
    assert "unknown" not in server.said()
    assert "nobody" not in server.said()


def test_a_foreign_origin_is_refused_before_the_upgrade(deployment: Deployment) -> None:
    server = deployment.server()
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{server.socket_url}?otp=x&username=y", origin=Origin("https://evil.example"))
    assert refused.value.response.status_code == 403


@pytest.mark.embedded
def test_a_second_server_on_the_same_data_gets_one_line(deployment: Deployment) -> None:
    deployment.server()
    second = serve(deployment, "--port", "0")
    assert second.returncode == 1
    assert "already runs" in second.stderr
    assert second.stderr.count("\n") == 1


@pytest.mark.cluster
def test_a_database_that_is_away_at_the_start_gets_one_line(deployment: Deployment) -> None:
    url = urlsplit(deployment.environment["DATABASE_URL"])
    deployment.environment["DATABASE_URL"] = f"postgres://{url.username}@127.0.0.1:1/away"
    refused = serve(deployment, "--port", "0")
    assert refused.returncode == 1
    assert "The database does not answer" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.embedded
def test_an_empty_database_gets_one_line(tmp_path: Path) -> None:
    with Deployment(settings={"CHATBE_VAR_DIR": str(tmp_path)}) as empty:
        refused = serve(empty, "--port", "0")
    assert refused.returncode == 1
    assert "Run: python manage.py migrate" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_socket_elsewhere_is_refused(deployment: Deployment) -> None:
    server = deployment.server()
    for path in ("/", "/v1/ws/", "/v1/me"):
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{server.port}{path}")
        assert refused.value.response.status_code == 403
    assert "Traceback" not in server.said()


@pytest.mark.embedded
def test_workers_need_shared_servers(deployment: Deployment) -> None:
    refused = serve(deployment, "--workers", "2", "--port", "0")
    assert refused.returncode == 1
    assert "DATABASE_URL" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_port_in_use_gets_one_line(deployment: Deployment) -> None:
    server = deployment.server()
    other = Deployment(settings={"CHATBE_VAR_DIR": str(deployment.folder / "other")})
    with other:
        refused = serve(other, "--port", str(server.port))
    assert refused.returncode == 1
    assert f"Port {server.port} on 127.0.0.1 is in use" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.cluster
def test_workers_serve_are_replaced_when_killed_and_drain(deployment: Deployment) -> None:
    server = deployment.server(workers=2)
    supervisor, *workers = server.family()
    assert len(workers) == 2
    os.kill(workers[0].pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while "node started" not in server.said().partition("is replaced")[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    server.wait_ready()
    now = [member.pid for member in server.family()]
    assert now[0] == supervisor.pid
    assert workers[0].pid not in now
    assert len(now) == 3
    # Whichever worker a scrape reaches, it has all of them, and none that is gone.
    while len(nodes := scraped_nodes(server)) < 2:
        assert time.monotonic() < deadline
    for _ in range(3):
        assert scraped_nodes(server) == nodes
    assert server.terminate() == 0
