"""clients/js: its own tests, in Node.js and in Chromium, against a real server behind links that fail."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.clients.links import Links
from tests.support.processes import ROOT, AppServer, Deployment

# The client sees no difference between the backends.
pytestmark = pytest.mark.pure

TIMEOUT = 180.0
FOLDER = ROOT / "clients/js"
ORIGIN = "http://client.localhost"
"""A page of a foreign origin, which the server's settings name. Nothing is there: the tests' files are put in."""
MADE_UP = "http://made-up.example"

Run = Callable[[str, str, str], None]
"""Runs a test file: its name, the server's address, and that of the links' control."""


@pytest.fixture(scope="session")
def open_server(migrated_deployment: Deployment) -> Iterator[AppServer]:
    """A server without limits, which pages of another origin may call."""
    with migrated_deployment.copy() as shared:
        shared.environment["CHATBE_RATE_LIMITS"] = "off"
        shared.environment["CHATBE_ALLOWED_ORIGINS"] = ORIGIN
        yield shared.server()


@pytest.fixture(params=["node", "chromium"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs test files; what they say is shown when one fails."""
    if request.param == "chromium":
        return in_chromium
    node: list[str] = request.getfixturevalue("node")
    return lambda name, server, links: in_node(node, name, server, links)


def in_node(node: list[str], name: str, server: str, links: str) -> None:
    """By Node.js' own test runner."""
    result = subprocess.run(
        [*node, "--test", "--test-reporter=tap", str(FOLDER / "test" / name)],
        capture_output=True,
        check=False,
        cwd=FOLDER,
        env={**os.environ, "CHATBE_URL": server, "CHATBE_LINKS": links, "NODE_NO_WARNINGS": "1"},
        text=True,
        timeout=TIMEOUT,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "# fail 0" in result.stdout
    assert "# pass 0" not in result.stdout


def in_chromium(name: str, server: str, links: str) -> None:
    """On a page whose files are those of clients/js."""
    pytest.importorskip("playwright", reason="playwright is not installed: make test installs it")
    from playwright.sync_api import Route

    from tests.web.browser import MISSING, chromium, executable

    if executable() is None:
        pytest.skip(MISSING)

    def put_in(route: Route) -> None:
        path = FOLDER / route.request.url.removeprefix(f"{ORIGIN}/").split("?")[0]
        kind = "text/html" if path.suffix == ".html" else "text/javascript"
        route.fulfill(body=path.read_text(), content_type=f"{kind}; charset=utf-8")

    with chromium() as browser:
        # A page of the web asks people before it reaches into their own network, as it does here.
        page = browser.new_page(permissions=["local-network-access"])
        page.set_default_timeout(TIMEOUT * 1000)
        page.route(re.compile(f"^{re.escape(ORIGIN)}/"), put_in)
        query = urlencode({"CHATBE_URL": server, "CHATBE_LINKS": links})
        page.goto(f"{ORIGIN}/test/browser/index.html?{query}")
        results = page.evaluate(
            """async (name) => {
                const { run } = await import("/test/browser/test.js");
                await import(`/test/${name}`);
                return await run();
            }""",
            name,
        )
    assert results
    failed = [f"{each['name']}\n{each['error']}" for each in results if each["error"]]
    assert not failed, "\n\n".join(failed)


@pytest.mark.pure
def test_it_keeps_the_rules_of_the_protocol(run: Run) -> None:
    run("rules.test.js", MADE_UP, MADE_UP)


def test_it_chats_with_a_real_server(run: Run, open_server: AppServer) -> None:
    with Links(open_server.port) as links:
        run("server.test.js", open_server.url, links.url)


@pytest.mark.pure
def test_the_tests_are_there() -> None:
    """So that a file that is added is not forgotten here."""
    files = {path.name for path in Path(FOLDER / "test").glob("*.test.js")}
    assert files == {"rules.test.js", "server.test.js"}
