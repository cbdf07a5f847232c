"""Pictures of every view, for docs/ and for eyes: `python -m tests.web.screenshots FOLDER`."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page

from tests.support.people import PASSWORD, Person, befriend
from tests.support.processes import Deployment
from tests.web.browser import MISSING, Device, chromium, executable

SIZES = {390: 844, 768: 1024, 1440: 900}
PEOPLE = {
    "mara": "Mara Lindqvist",
    "jonas": "Jonas Okafor",
    "layla": "ليلى حسن",
    "wei": "王小薇",
    "max": "Maximilian-Alexander von und zu Hohenlohe-Waldenburg the Younger",
    "sam": "Sam 🦊",
}
TALK = (
    ("jonas", "Morning! Are we still on for the lake on Saturday?"),
    ("mara", "Yes! Carol has a boat."),
    ("jonas", "Carol has a *boat*?"),
    ("mara", "A rowing boat. With one oar, I am told."),
    ("jonas", "So we will see the lake from all sides, slowly."),
    ("mara", "That is the plan. Ten o'clock at the bridge?"),
    ("jonas", "I'll be there. I'll bring the second oar."),
    ("jonas", "And a hat 🎩"),
    ("mara", "🎉"),
    (
        "mara",
        "The way there: https://maps.example.org/lake/bridge\n\nTake the river path; you will hear the frogs.",
    ),
    ("jonas", "Perfect, thank you. Do we need anything else?"),
    ("mara", "Ginger biscuits. And the oat ones. It is a concert, after all."),
)
HARD = (
    ("max", "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 2),
    ("max", "<script>alert(1)</script> <img src=x onerror=alert(1)> &amp; **bold**"),
    ("mara", "a\u202egnp.exe\u202c and \u200b\u200bzero\u200bwidth"),
    ("max", "👨‍👩‍👧‍👦🏳️‍🌈❤️"),
    ("mara", "fine"),
)


@contextmanager
def world() -> Iterator[str]:
    """A server with people who have talked."""
    with Deployment() as deployment:
        deployment.environment["CHATBE_RATE_LIMITS"] = "off"
        deployment.manage("migrate", "--verbosity", "0")
        url = deployment.server().url
        people = {name: Person(url, name) for name in PEOPLE}
        for name, person in people.items():
            assert person.http.patch("/v1/me", json={"display_name": PEOPLE[name]}).status_code == 200
        befriend(*people.values())
        say(people, TALK, "mara", "jonas")
        say(people, HARD, "mara", "max")
        say(
            people,
            (
                ("layla", "صباح الخير! هل ستأتين يوم السبت؟ Bring the red umbrella ☂️"),
                ("mara", "نعم، بالتأكيد"),
            ),
            "mara",
            "layla",
        )
        say(people, (("wei", "周六十点在桥边见!我会带茶和点心。"), ("wei", "别忘了带帽子")), "mara", "wei")
        say(people, (("mara", "Are you up?"),), "mara", "sam")
        for person in people.values():
            person.http.close()
        yield url


def say(people: dict[str, Person], lines: tuple[tuple[str, str], ...], one: str, other: str) -> None:
    """Let two people talk."""
    answer = people[one].http.post("/v1/conversations", json={"kind": "direct", "username": other})
    conversation = answer.json()["id"]
    for sender, body in lines:
        answer = people[sender].http.post(
            f"/v1/conversations/{conversation}/messages", json={"client_id": str(uuid.uuid4()), "body": body}
        )
        assert answer.status_code == 201, answer.text


def open_chat(page: Page, name: str) -> None:
    """Open the conversation with somebody."""
    page.get_by_role("link", name=name).first.click()
    page.locator(".row").last.wait_for()


def take(browser: Browser, url: str, folder: Path) -> None:
    """Take them all."""
    jonas = Device(browser, url, viewport={"width": 1024, "height": 700})
    theirs = jonas.sign_in("jonas")
    open_chat(theirs, "Mara")
    for width, height in SIZES.items():
        for scheme in ("light", "dark"):
            device = Device(browser, url, viewport={"width": width, "height": height}, color_scheme=scheme)

            def picture(name: str, page: Page = device.page, end: str = f"{width}-{scheme}") -> None:
                page.wait_for_timeout(250)
                page.screenshot(path=folder / f"{name}-{end}.png")

            page = device.open()
            page.get_by_label("Password").wait_for()
            picture("sign-in")
            page.get_by_role("button", name="Create an account").click()
            page.get_by_role("button", name="Create account").click()
            page.locator(".field-error:not(:empty)").first.wait_for()
            picture("sign-up-errors")
            device.sign_in("mara", PASSWORD)
            page.locator(".conversation .avatar").first.wait_for()
            picture("chats")
            open_chat(page, "Jonas")
            theirs.get_by_label("Message", exact=True).press_sequentially("I am", delay=5)
            picture("chat")
            page.evaluate("location.hash = ''")
            open_chat(page, "Maximilian")
            picture("hard-texts")
            page.evaluate("location.hash = ''")
            open_chat(page, "ليلى")
            picture("arabic")
            page.evaluate("location.hash = ''")
            open_chat(page, "王小薇")
            page.get_by_label("Message", exact=True).fill("好的!👋")
            picture("chinese")
            device.context.set_offline(True)
            page.get_by_label("Message", exact=True).press("Enter")
            page.locator(".connection").wait_for()
            picture("offline")
            device.context.set_offline(False)
            page.evaluate("location.hash = ''")
            page.get_by_role("button", name="New chat").click()
            page.locator(".person").first.wait_for()
            picture("new-chat")
            page.keyboard.press("Escape")
            page.get_by_role("button", name="Settings").click()
            page.locator(".device .tag").wait_for()
            picture("settings")
            page.keyboard.press("Escape")
            device.close()
            print(width, scheme, device.complaints or "", flush=True)


def main(folder: Path) -> None:
    """Take the pictures."""
    if executable() is None:
        raise SystemExit(MISSING)
    folder.mkdir(parents=True, exist_ok=True)
    with world() as url, chromium() as browser:
        take(browser, url, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
