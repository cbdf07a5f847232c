"""The page at /, in a real Chromium."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import expect

from tests.support.people import PASSWORD, Person, new_name
from tests.support.processes import AppServer, Deployment
from tests.web.browser import Device
from tests.web.steps import conversation, group, opened, pair, shown, stored, waiting, write

MakeDevice = Callable[..., Device]
FIRST_LOAD = 100 * 1024
"""Bytes of script and style, as they are sent."""


def test_two_people_sign_up_become_contacts_and_chat(device: MakeDevice, servers: list[AppServer]) -> None:
    names = new_name("ann"), new_name("ben")
    pages = []
    for name, server in zip(names, servers, strict=True):
        page = device(server).open()
        page.get_by_role("button", name="Create an account").click()
        page.get_by_label("Username").fill(name)
        page.get_by_label("Email").fill(f"{name}@example.org")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Create account").click()
        expect(page.get_by_text("No chats yet.")).to_be_visible()
        pages.append(page)
    ann, ben = pages
    ann.get_by_role("button", name="New chat").click()
    ann.get_by_label("Find people by username").fill(names[1][:9])
    ann.get_by_role("button", name=f"Add {names[1]}").click()
    ann.get_by_role("button", name=f"Chat with {names[1]}").click()
    write(ann, "Hello Ben!")
    expect(stored(ann)).to_have_count(1)

    ben.get_by_role("link", name=names[0]).click()
    expect(ben.locator(".row .body")).to_have_text(["Hello Ben!"])
    ben.get_by_role("button", name="Add", exact=True).click()
    expect(ann.get_by_role("img", name="Read")).to_be_visible()
    expect(ann.locator(".thread-head .status")).to_have_text("Online")

    ben.get_by_label("Message", exact=True).press_sequentially("Hello")
    expect(ann.locator(".thread-head .status")).to_have_text("typing…")
    ben.get_by_label("Message", exact=True).press("Enter")
    expect(ann.locator(".row .body")).to_have_text(["Hello Ben!", "Hello"])
    expect(ann.locator(".thread-head .status")).to_have_text("Online")
    expect(ann.locator(".conversation .dot.on")).to_have_count(1)
    ben.get_by_role("button", name="Settings").click()
    ben.get_by_role("button", name="Sign out", exact=True).last.click()
    expect(ben.get_by_label("Username or email")).to_be_visible()
    expect(ann.locator(".thread-head .status")).to_have_text("Last seen just now")
    expect(ann.locator(".conversation .dot.on")).to_have_count(0)


def test_what_is_written_offline_waits_and_arrives_once(device: MakeDevice, servers: list[AppServer]) -> None:
    alice, bob = pair(servers)
    identity = conversation(alice, bob, "before")
    hers, his = device(), device(servers[1])
    page, other = opened(hers, alice, identity), opened(his, bob, identity)
    expect(page.locator(".row .body")).to_have_text(["before"])
    expect(other.locator(".row .body")).to_have_text(["before"])
    hers.context.set_offline(True)
    write(page, "from the tunnel")
    write(page, "still in it")
    expect(waiting(page)).to_have_count(2)
    expect(page.locator(".connection")).to_contain_text("2 messages wait")
    write(other, "where are you?")
    expect(stored(other)).to_have_count(1)
    hers.context.set_offline(False)
    everything = ["before", "where are you?", "from the tunnel", "still in it"]
    expect(page.locator(".row .body")).to_have_text(everything)
    expect(other.locator(".row .body")).to_have_text(everything)
    expect(page.locator(".connection")).to_be_hidden()
    assert [message["body"] for message in bob.history(identity)] == everything


@pytest.mark.cluster
def test_a_killed_server_while_both_type(
    device: MakeDevice, deployment: Deployment, servers: list[AppServer]
) -> None:
    deployment.environment["CHATBE_RATE_LIMITS"] = "off"
    one, other = deployment.server(), deployment.server()
    alice, bob = pair([one, other])
    identity = conversation(alice, bob, "before")
    pages = opened(device(one), alice, identity), opened(device(other), bob, identity)
    for page in pages:
        expect(page.locator(".row .body")).to_have_text(["before"])
    for number in range(5):
        for name, page in zip("ab", pages, strict=True):
            write(page, f"{name}{number}")
        if number == 2:
            other.kill()
    other.start()
    for page in pages:
        expect(page.locator(".row .body")).to_have_count(11)
        expect(waiting(page)).to_have_count(0)
    kept = [message["body"] for message in alice.history(identity)]
    assert all(shown(page) == kept for page in pages)
    assert [body for body in kept if body[0] == "a" and len(body) == 2] == [f"a{n}" for n in range(5)]
    assert [body for body in kept if len(body) == 2 and body[0] == "b" and body[1].isdigit()] == [
        f"b{n}" for n in range(5)
    ]


def test_markup_and_invisible_characters_show_as_text(device: MakeDevice, servers: list[AppServer]) -> None:
    alice, bob = pair(servers)
    hostile = [
        "<img src=x onerror=alert(1)><script>alert(2)</script>",
        "javascript:alert(3) https://example.org/<script>",
        "a\u202egnp.exe\u202c \u200bzero",
        "{{constructor.constructor('alert(4)')()}}",
    ]
    bob.http.patch("/v1/me", json={"display_name": "<b onclick=alert(5)>Bob</b>"}).raise_for_status()
    identity = conversation(bob, alice, *hostile)
    crew = group(bob, "<i>a\u202egnp.exe</i>", alice)
    hers = device()
    hers.page.on("dialog", lambda dialog: hers.complaints.append(f"dialog: {dialog.message}"))
    page = opened(hers, alice, identity)
    expect(page.locator(".row")).to_have_count(len(hostile))
    assert page.locator(".row .body").evaluate_all("all => all.map(one => one.textContent)") == hostile
    assert page.locator(".row img, .row script, .row b").count() == 0
    expect(page.locator(".thread-head h2")).to_have_text("<b onclick=alert(5)>Bob</b>")
    assert page.locator(".row a").evaluate_all("all => all.map(one => one.getAttribute('href'))") == [
        "https://example.org/"
    ]
    # What would write letters backwards stands alone, so that it has no effect; in a line of ours it is left out.
    assert page.locator(".row .control").evaluate_all("all => all.map(one => one.textContent)") == ["\u202e"]
    page.evaluate(f"location.hash = '#/c/{crew}'")
    expect(page.locator(".thread-head h2")).to_have_text("<i>agnp.exe</i>")
    expect(page.locator(".conversation .name").first).to_have_text("<i>agnp.exe</i>")
    assert page.locator("h2 i, .conversation .name i").count() == 0


def test_a_device_is_signed_out_from_another(device: MakeDevice, servers: list[AppServer]) -> None:
    alice = Person(servers[0].url, new_name("alice"))
    lost = device().sign_in(alice.username)
    lost.get_by_role("button", name="Settings").click()
    page = device().sign_in(alice.username)
    page.get_by_role("button", name="Settings").click()
    expect(page.locator(".device")).to_have_count(3)  # both pages, and the test's own session
    for left in (2, 1):
        page.locator(".device button").first.click()
        expect(page.locator(".device")).to_have_count(left)
    expect(lost.get_by_label("Username or email")).to_be_visible()
    expect(lost.get_by_role("dialog")).to_have_count(0)


def test_what_cannot_be_loaded_says_so(device: MakeDevice, servers: list[AppServer]) -> None:
    page = device().sign_in(Person(servers[0].url, new_name("alice")))
    page.route("**/v1/auth/sessions", lambda route: route.abort())
    page.get_by_role("button", name="Settings").click()
    expect(page.locator(".devices")).to_have_text("This could not be loaded.")


def test_the_first_load_is_small_and_from_here_only(device: MakeDevice) -> None:
    one = device()
    one.open().get_by_label("Username or email").wait_for()
    assert {urlsplit(url).netloc for url in one.requests} == {urlsplit(one.url).netloc}
    assets = {url for url in one.requests if url.endswith((".js", ".css"))}
    assert len(assets) > 5
    size = 0
    for url in assets:
        with httpx.stream("GET", url.replace("localhost", "127.0.0.1")) as answer:
            answer.read()
            size += answer.num_bytes_downloaded
    assert size < FIRST_LOAD


def test_it_is_used_by_keyboard_alone(device: MakeDevice, servers: list[AppServer]) -> None:
    alice, bob = pair(servers)
    conversation(bob, alice, "one", "two")
    page = device().sign_in(alice)
    page.get_by_role("link", name=bob.username).wait_for()
    page.keyboard.press("Control+k")
    page.keyboard.type(bob.username[:6])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.press("ArrowUp")  # while the history is still on its way
    expect(page.locator(".row").last).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_role("menuitem", name="Reply").press("Enter")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.type("three")
    page.keyboard.press("Enter")
    expect(page.locator(".row .body")).to_have_text(["one", "two", "three"])
    expect(page.locator(".quote bdi")).to_have_text("two")
