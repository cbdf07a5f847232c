"""What axe-core says of every view, in light and in dark."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import FilePayload, Page

from tests.support.people import Person, befriend, new_name
from tests.support.processes import AppServer
from tests.web.browser import Device
from tests.web.screenshots import drawing
from tests.web.steps import conversation, group, info, say, stored, write

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


@pytest.mark.parametrize("width", [390, 1440])
def test_no_view_has_a_serious_violation(
    device: Callable[..., Device], servers: list[AppServer], axe: str, width: int
) -> None:
    alice, bob, eve = (Person(servers[0].url, new_name(name)) for name in ("alice", "bob", "eve"))
    befriend(alice, bob)
    eve.add(alice.username)
    identity = conversation(bob, alice, "Hello! https://example.org/")
    crew = group(bob, "Crew", alice)
    say(bob, crew, f"Who is in, @{alice.username}?")
    say(alice, crew, "Me!")
    alice.http.put(f"/v1/conversations/{crew}/messages/1/reactions/👍").raise_for_status()
    one = device(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    page = one.open()
    # Colours are the same at every width, so dark is looked at in one.
    judge = Judge(page, axe, with_dark=width > 1000)
    page.get_by_label("Password").wait_for()
    judge("sign in")
    page.get_by_role("button", name="Create an account").click()
    page.get_by_role("button", name="Create account").click()
    page.locator(".field-error:not(:empty)").first.wait_for()
    judge("sign up, with errors")
    one.sign_in(alice)
    page.locator(".conversation .badge").wait_for()
    page.locator(".requests").wait_for()
    judge("chats")
    page.get_by_label("Search", exact=True).fill("hello")
    page.locator(".hits").get_by_text("Searching…").wait_for(state="hidden")
    judge("search")
    page.get_by_label("Search", exact=True).fill("")

    page.evaluate(f"location.hash = '#/c/{identity}'")
    page.locator(".row").wait_for()
    write(page, "Hello yourself!")
    stored(page).wait_for()
    judge("chat")
    page.locator(".row").first.focus()
    page.keyboard.press("Enter")
    page.get_by_role("menu").wait_for()
    judge("message actions")
    page.keyboard.press("Escape")

    page.evaluate(f"location.hash = '#/c/{crew}'")
    page.locator(".reaction").wait_for()
    page.get_by_label("Message", exact=True).press_sequentially("@")
    page.get_by_role("option").first.wait_for()
    judge("group, with members offered")
    page.get_by_label("Message", exact=True).fill("")
    info(page)
    page.locator(".person").first.wait_for()
    judge("group and members")
    page.keyboard.press("Escape")
    picture = alice.http.post("/v1/attachments", files={"file": ("lake.png", drawing(60, 40))})
    page.get_by_label("Files", exact=True).set_input_files(
        [FilePayload(name="notes.txt", mimeType="text/plain", buffer=b"tea\n")]
    )
    page.locator(".upload small").wait_for()
    alice.http.post(
        f"/v1/conversations/{crew}/messages",
        json={"body": "Look!", "attachments": [picture.json()["id"]]},
    ).raise_for_status()
    page.locator(".row .picture img[src]").wait_for()
    judge("files")
    page.get_by_role("button", name="Show lake.png").click()
    page.locator(".frame img").wait_for()
    judge("picture")
    page.keyboard.press("Escape")
    one.context.set_offline(True)
    page.locator(".connection").wait_for()
    judge("offline")
    one.context.set_offline(False)

    page.evaluate("location.hash = ''")
    page.get_by_role("button", name="New chat").click()
    page.locator(".person").first.wait_for()
    judge("new chat")
    page.get_by_role("button", name="New group").click()
    judge("new group")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Settings").click()
    page.locator(".device .tag").wait_for()
    judge("settings")
    assert not judge.grave, json.dumps(judge.grave, indent=1)


class Judge:
    """Notes what is wrong in each view, in light and (as far as it can differ) in dark."""

    def __init__(self, page: Page, axe: str, *, with_dark: bool) -> None:
        self._page = page
        self._runs: list[tuple[Literal["light", "dark"], dict[str, Any]]] = [("light", {})]
        if with_dark:
            self._runs.append(("dark", {"runOnly": ["color-contrast"]}))
        self._axe = axe
        self.grave: list[dict[str, Any]] = []

    def __call__(self, view: str) -> None:
        """Look at the view that is shown."""
        if not self._page.evaluate("'axe' in window"):
            self._page.evaluate(self._axe)
        for scheme, options in self._runs:
            self._page.emulate_media(color_scheme=scheme)
            found = self._page.evaluate(
                "(options) => axe.run({resultTypes: ['violations'], ...options})", options
            )
            self.grave += [
                {
                    "view": f"{view}, {scheme}",
                    "rule": one["id"],
                    "help": one["help"],
                    "where": [node["html"][:200] for node in one["nodes"][:4]],
                }
                for one in found["violations"]
                if one["impact"] in GRAVE
            ]
