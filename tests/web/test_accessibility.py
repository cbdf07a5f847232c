"""What axe-core says of every view, in light and in dark."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.support.people import Person, befriend, new_name
from tests.support.processes import AppServer
from tests.web.browser import Device

FOLDER = Path(__file__).parent
GRAVE = {"serious", "critical"}


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core's source, installed by npm on first use."""
    source = FOLDER / "node_modules/axe-core/axe.min.js"
    if not source.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not installed: apt-get install npm")
        subprocess.run([npm, "ci", "--silent", "--no-audit", "--no-fund"], cwd=FOLDER, check=True)
    return source.read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_no_view_has_a_serious_violation(
    device: Callable[..., Device], servers: list[AppServer], axe: str, scheme: str, width: int
) -> None:
    alice, bob = Person(servers[0].url, new_name("alice")), Person(servers[0].url, new_name("bob"))
    befriend(alice, bob)
    with bob.live() as socket:
        socket.message(alice.username, "Hello! https://example.org/")
    one = device(color_scheme=scheme, viewport={"width": width, "height": 900}, reduced_motion="reduce")
    page = one.open()
    page.get_by_label("Password").wait_for()
    judge(page, axe, "sign in")
    page.get_by_role("button", name="Create an account").click()
    page.get_by_role("button", name="Create account").click()
    page.locator(".field-error:not(:empty)").first.wait_for()
    judge(page, axe, "sign up, with errors")
    one.sign_in(alice.username)
    page.locator(".conversation .badge").wait_for()
    judge(page, axe, "chats")
    page.get_by_role("link", name=bob.username).click()
    page.locator(".row").wait_for()
    page.get_by_label("Message", exact=True).fill("Hello yourself!")
    page.get_by_label("Message", exact=True).press("Enter")
    page.get_by_role("img", name="Sent").wait_for()
    judge(page, axe, "chat")
    page.locator(".row").first.focus()
    page.keyboard.press("Enter")
    page.get_by_role("menu").wait_for()
    judge(page, axe, "message actions")
    page.keyboard.press("Escape")
    one.context.set_offline(True)
    page.locator(".connection").wait_for()
    judge(page, axe, "offline")
    one.context.set_offline(False)
    page.evaluate("location.hash = ''")
    page.get_by_role("button", name="New chat").click()
    page.locator(".person").wait_for()
    judge(page, axe, "new chat")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Settings").click()
    page.locator(".device .tag").wait_for()
    judge(page, axe, "settings")


def judge(page: Page, axe: str, view: str) -> None:
    """Fail with what is wrong in this view."""
    page.evaluate(axe)
    violations = page.evaluate("axe.run().then(({ violations }) => violations)")
    grave = [
        {"rule": one["id"], "help": one["help"], "where": [node["html"][:200] for node in one["nodes"][:4]]}
        for one in violations
        if one["impact"] in GRAVE
    ]
    assert not grave, f"{view}: {json.dumps(grave, indent=1)}"
