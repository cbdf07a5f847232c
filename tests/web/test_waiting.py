"""What is shown as sent is stored; what is shown as waiting is not lost, whenever the page goes."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Page, WebSocketRoute, expect

from tests.support.processes import AppServer
from tests.web.browser import Device
from tests.web.steps import conversation, opened, pair, shown, stored, until, waiting, write

MakeDevice = Callable[..., Device]
SOCKET = re.compile("/v1/ws")


def anew(one: Device, page: Page, identity: str) -> Page:
    """The page once more, in another tab: what the first one's socket was made to do has an end."""
    page.close()
    page = one.context.new_page()
    one.watch(page)
    page.goto(f"{one.url}/#/c/{identity}")
    return page


def bodies(history: list[dict[str, object]]) -> list[object]:
    """What was said."""
    return [message["body"] for message in history]


def test_it_waits_while_there_is_no_socket(device: MakeDevice, servers: list[AppServer]) -> None:
    alice, bob = pair(servers)
    identity = conversation(alice, bob, "before")
    hers = device()
    page = opened(hers, alice, identity)
    expect(page.locator(".row .body")).to_have_text(["before"])
    # The page can be had, its socket cannot.
    page.route_web_socket(SOCKET, lambda socket: socket.close())
    page.reload()
    expect(page.locator(".row .body")).to_have_text(["before"])
    write(page, "while the socket is away")
    expect(waiting(page)).to_have_count(1)
    page.reload()
    expect(page.locator(".row .body")).to_have_text(["before", "while the socket is away"])
    expect(waiting(page)).to_have_count(1)
    assert bodies(bob.history(identity)) == ["before"]
    page = anew(hers, page, identity)
    expect(stored(page)).to_have_count(2)
    assert shown(page) == ["before", "while the socket is away"] == bodies(bob.history(identity))


def test_a_reload_in_the_task_that_sends(device: MakeDevice, servers: list[AppServer]) -> None:
    alice, bob = pair(servers)
    identity = conversation(alice, bob, "0")
    page = opened(device(), alice, identity)
    expect(page.locator(".row .body")).to_have_text(["0"])
    for number in range(1, 4):
        with page.expect_navigation():
            # No storage and no socket has had a turn when the page goes.
            page.evaluate(
                """(body) => {
                    const box = document.querySelector('.composer textarea');
                    box.value = body;
                    box.dispatchEvent(new InputEvent('input'));
                    document.querySelector('.composer').requestSubmit();
                    location.reload();
                }""",
                str(number),
            )
        stored(page).nth(number).wait_for()
    assert shown(page) == ["0", "1", "2", "3"] == bodies(bob.history(identity))


def test_reloads_while_many_are_on_their_way(device: MakeDevice, servers: list[AppServer]) -> None:
    alice, bob = pair(servers)
    identity = conversation(alice, bob)
    page = opened(device(), alice, identity)
    page.get_by_text("Say hello to").wait_for()
    for start in range(0, 40, 10):
        for number in range(start, start + 10):
            write(page, str(number))
        page.reload()
        page.locator(".row").first.wait_for()
    expect(waiting(page)).to_have_count(0)
    expect(page.locator(".row .body").last).to_have_text("39")
    assert bodies(bob.history(identity)) == [str(number) for number in range(40)]


def test_an_ack_that_never_comes_leaves_it_waiting(device: MakeDevice, servers: list[AppServer]) -> None:
    alice, bob = pair(servers)
    identity = conversation(alice, bob, "before")
    hers = device()
    page = hers.page

    told: list[str] = []

    def keep_acks(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def pass_on(text: str | bytes) -> None:
            if '"ack"' not in str(text):
                socket.send(text)
                told.append(str(text))

        server.on_message(pass_on)

    page.route_web_socket(SOCKET, keep_acks)
    page = opened(hers, alice, identity)
    # Whatever the page fetches when it opens is there: none of it can tell of the message.
    expect(page.locator(".row .body")).to_have_text(["before"])
    until(page, lambda: any('"synced"' in text for text in told))
    write(page, "stored, but who knows")
    until(page, lambda: len(bob.history(identity)) == 2)
    assert bodies(bob.history(identity)) == ["before", "stored, but who knows"]
    expect(waiting(page)).to_have_count(1)
    page = anew(hers, page, identity)
    expect(stored(page)).to_have_count(2)
    expect(waiting(page)).to_have_count(0)
    assert shown(page) == ["before", "stored, but who knows"] == bodies(bob.history(identity))


def test_nothing_is_shown_as_sent_that_did_not_leave(device: MakeDevice, servers: list[AppServer]) -> None:
    alice, bob = pair(servers)
    identity = conversation(alice, bob)
    hers = device()
    page = hers.page
    taken: list[str] = []

    def keep_sends(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        socket.on_message(
            lambda text: taken.append(str(text)) if '"send"' in str(text) else server.send(text)
        )

    page.route_web_socket(SOCKET, keep_sends)
    page = opened(hers, alice, identity)
    write(page, "into the void")
    expect(waiting(page)).to_have_count(1)
    page.wait_for_timeout(50)
    assert taken
    assert stored(page).count() == 0
    assert bob.history(identity) == []
    page = anew(hers, page, identity)
    expect(stored(page)).to_have_count(1)
    assert bodies(bob.history(identity)) == ["into the void"]


def test_what_is_refused_stays_until_it_is_sent_again_or_deleted(
    device: MakeDevice, servers: list[AppServer]
) -> None:
    alice, bob = pair(servers)
    identity = conversation(alice, bob, "before")
    page = opened(device(), alice, identity)
    expect(page.locator(".row .body")).to_have_text(["before"])
    assert bob.http.put(f"/v1/blocks/{alice.username}").status_code == 204
    write(page, "psst")
    write(page, "hello?")
    expect(page.locator("div.refused")).to_have_count(2)
    page.reload()
    expect(page.locator("div.refused")).to_have_count(2)
    page.get_by_role("button", name="Delete").last.click()
    expect(page.locator(".row .body")).to_have_text(["before", "psst"])
    assert bob.http.delete(f"/v1/blocks/{alice.username}").status_code == 204
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("div.refused")).to_have_count(0)
    expect(stored(page)).to_have_count(2)
    assert bodies(bob.history(identity)) == ["before", "psst"]
