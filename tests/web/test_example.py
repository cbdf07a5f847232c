"""examples/web-page works as its text says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.people import PASSWORD, Person, befriend, close_all
from tests.support.processes import ROOT, Deployment

FOLDER = ROOT / "examples/web-page"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the folder, in which another server can be named."""
    return Path(shutil.copytree(FOLDER, tmp_path / "examples/web-page"))


@pytest.fixture
def site(tmp_path: Path, copy: Path) -> Iterator[str]:
    """The copy, served as the text says, on a free port."""
    (command,) = re.findall(r"^python3 (-m http\.server .*)$", (copy / "README.md").read_text(), re.MULTILINE)
    arguments = command.replace(" 8080", " 0").split()
    with subprocess.Popen(
        [sys.executable, "-u", *arguments, "--bind", "127.0.0.1"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        found = re.search(r"port (\d+)", process.stdout.readline())
        assert found is not None
        yield f"http://localhost:{found[1]}"
        process.kill()


def enter(browser: Browser, address: str, username: str, peer: str) -> Page:
    """Open the page, sign in, and choose whom to write to."""
    page = browser.new_context().new_page()
    page.goto(address)
    page.get_by_label("Username").fill(username)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("With").fill(peer)
    page.get_by_label("With").press("Enter")
    return page


def test_two_people_chat_on_a_small_page(
    browser: Browser, deployment: Deployment, site: str, copy: Path
) -> None:
    deployment.environment["CHATBE_ALLOWED_ORIGINS"] = site
    server = deployment.server().url
    befriend(Person(server, "alice"), Person(server, "bob"))
    close_all()
    index = copy / "index.html"
    assert 'content="http://127.0.0.1:8000"' in index.read_text()
    index.write_text(index.read_text().replace("http://127.0.0.1:8000", server))
    alice, bob = enter(browser, site, "alice", "bob"), enter(browser, site, "bob", "alice")
    expect(alice.locator("#status")).to_have_text("online")
    alice.get_by_label("Message").press_sequentially("Hello")
    expect(bob.locator("#status")).to_have_text("is typing…")
    alice.get_by_label("Message").press("Enter")
    expect(bob.locator("#messages li")).to_have_text(["Hello"])
    bob.get_by_label("Message").fill("<b>Hello</b> yourself")
    bob.get_by_role("button", name="Send").click()
    expect(alice.locator("#messages li")).to_have_text(["Hello", "<b>Hello</b> yourself"])
    expect(alice.locator("#messages .waiting")).to_have_count(0)
    alice.reload()
    expect(alice.get_by_label("With")).to_be_visible()
    for page in (alice, bob):
        page.context.close()
