"""What people do in the tests of the page."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

from tests.support.people import Person, befriend, new_name
from tests.support.processes import AppServer
from tests.web.browser import PATIENCE, Device

expect.set_options(timeout=PATIENCE)


def pair(servers: list[AppServer]) -> tuple[Person, Person]:
    """Two people, contacts of each other, at two servers."""
    alice, bob = Person(servers[0].url, new_name("alice")), Person(servers[1].url, new_name("bob"))
    befriend(alice, bob)
    return alice, bob


def conversation(one: Person, other: Person, *bodies: str) -> str:
    """Their conversation, with messages of the first."""
    answer = one.http.post("/v1/conversations", json={"kind": "direct", "username": other.username})
    identity: str = answer.json()["id"]
    say(one, identity, *bodies)
    return identity


def group(owner: Person, title: str, *members: Person) -> str:
    """A group."""
    answer = owner.http.post(
        "/v1/conversations",
        json={"kind": "group", "title": title, "members": [member.username for member in members]},
    )
    assert answer.status_code == 201, answer.text
    identity: str = answer.json()["id"]
    return identity


def say(person: Person, identity: str, *bodies: str) -> None:
    """Send messages."""
    for body in bodies:
        person.http.post(
            f"/v1/conversations/{identity}/messages", json={"client_id": str(uuid.uuid4()), "body": body}
        ).raise_for_status()


def opened(device: Device, person: Person, identity: str) -> Page:
    """A signed-in page that shows a conversation."""
    page = device.sign_in(person)
    page.evaluate(f"location.hash = '#/c/{identity}'")
    page.locator(".thread-head h2").wait_for()
    return page


def info(page: Page) -> None:
    """Open what is to be known of a group."""
    page.get_by_role("button", name="More", exact=True).click()
    page.get_by_role("menuitem", name="Group and members").click()


def write(page: Page, body: str) -> None:
    """Type a message and send it."""
    page.get_by_label("Message", exact=True).fill(body)
    page.get_by_label("Message", exact=True).press("Enter")


def until(page: Page, holds: Callable[[], bool]) -> None:
    """Wait for what happens outside the page; its routes go on only while Playwright does."""
    deadline = time.monotonic() + 20
    while not holds():
        page.wait_for_timeout(20)
        assert time.monotonic() < deadline


def shown(page: Page) -> list[str]:
    """The bodies that can be seen, in their order."""
    return page.locator(".row .body").all_inner_texts()


def stored(page: Page) -> Locator:
    """The ticks of my messages that the server has."""
    return page.locator(".row .state:is(.sent, .delivered, .read)")


def waiting(page: Page) -> Locator:
    """The signs of my messages that wait."""
    return page.get_by_role("img", name="Waiting to be sent")


def choose(page: Page, row_text: str, action: str) -> None:
    """Open a message's menu and choose an action."""
    page.locator(".row").filter(has=page.locator(".body", has_text=row_text)).last.focus()
    page.keyboard.press("Enter")
    page.get_by_role("menuitem", name=action).click()
