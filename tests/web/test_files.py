"""Files and search on the page."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import FilePayload, Page, expect

from tests.support.people import Person
from tests.support.processes import AppServer
from tests.web.browser import Device
from tests.web.screenshots import drawing
from tests.web.steps import conversation, opened, pair, say, stored, write

MakeDevice = Callable[..., Device]
PICTURE: FilePayload = {"name": "lake.png", "mimeType": "image/png", "buffer": drawing(60, 40)}
HOSTILE = "<img src=x onerror=alert(1)>.txt"


@pytest.fixture
def talk(device: MakeDevice, servers: list[AppServer]) -> tuple[Person, Page, Page]:
    """Bob, and two pages that show his conversation with Alice: hers and his."""
    alice, bob = pair(servers)
    identity = conversation(alice, bob, "before")
    pages = opened(device(), alice, identity), opened(device(servers[1]), bob, identity)
    for page in pages:
        expect(page.locator(".row .body")).to_have_text(["before"])
    return bob, *pages


def attach(page: Page, *files: FilePayload) -> None:
    """Choose files, and wait until they are uploaded."""
    page.get_by_label("Files", exact=True).set_input_files(list(files))
    expect(page.locator(".upload small")).to_have_count(len(files))


def test_a_picture_is_sent_shown_and_downloaded(talk: tuple[Person, Page, Page]) -> None:
    _, hers, his = talk
    attach(hers, PICTURE)
    expect(hers.locator(".upload img")).to_be_visible()
    write(hers, "look!")
    expect(stored(hers)).to_have_count(2)
    expect(hers.locator(".row .picture img")).to_be_visible()
    thumbnail = his.locator(".row .picture img")
    expect(thumbnail).to_have_attribute("alt", "lake.png")
    expect(thumbnail).to_have_js_property("complete", value=True)
    assert thumbnail.evaluate("(one) => one.decode().then(() => one.naturalWidth)") > 0
    his.get_by_role("button", name="Show lake.png").click()
    large = his.get_by_role("dialog").locator("img")
    assert large.evaluate("(one) => one.decode().then(() => [one.naturalWidth, one.naturalHeight])") == [
        60,
        40,
    ]
    with his.expect_download() as downloading:
        his.get_by_role("link", name="Download").click()
    assert downloading.value.suggested_filename == "lake.png"


def test_a_files_name_is_text_and_what_is_refused_says_so(talk: tuple[Person, Page, Page]) -> None:
    _, hers, his = talk
    attach(hers, {"name": HOSTILE, "mimeType": "text/plain", "buffer": b"tea, biscuits\n"})
    write(hers, "")
    expect(stored(hers)).to_have_count(2)
    name = his.locator(".row .file bdi")
    expect(name).to_contain_text("onerror=alert(1)")
    assert his.locator(".row img").count() == 0
    with his.expect_download() as downloading:
        his.locator(".row .file").click()
    assert downloading.value.path().read_bytes() == b"tea, biscuits\n"
    hers.get_by_label("Files", exact=True).set_input_files(
        [FilePayload(name="odd.bin", mimeType="application/x-odd", buffer=b"\x00\x01\x02")]
    )
    expect(hers.locator(".toast.bad")).to_contain_text("odd.bin")
    expect(hers.locator(".upload")).to_have_count(0)
    hers.get_by_label("Files", exact=True).set_input_files(
        [FilePayload(name="nothing.txt", mimeType="text/plain", buffer=b"")]
    )
    expect(hers.locator(".toast.bad").last).to_have_text("nothing.txt: The file is empty.")


def test_files_of_a_message_that_waits_survive_a_reload(talk: tuple[Person, Page, Page]) -> None:
    _, hers, his = talk
    attach(hers, PICTURE)
    hers.context.set_offline(True)
    hers.locator(".connection").wait_for()
    write(hers, "from the tunnel")
    expect(hers.locator(".row .picture")).to_be_visible()
    hers.context.set_offline(False)
    hers.reload()
    expect(his.locator(".row .body").last).to_have_text("from the tunnel")
    expect(his.locator(".row .picture img")).to_be_visible()


def test_what_was_said_long_ago_is_found_and_shown(
    talk: tuple[Person, Page, Page],
) -> None:
    bob, hers, _ = talk
    identity = hers.url.rsplit("/", 1)[1]
    say(bob, identity, "the gramophone is mended", *(f"number {number}" for number in range(120)))
    hers.reload()
    expect(hers.locator(".row .body").last).to_have_text("number 119")
    assert hers.get_by_text("gramophone").count() == 0
    hers.get_by_label("Search", exact=True).fill("gramophone")
    hit = hers.locator(".hit")
    expect(hit).to_have_count(1)
    expect(hit.locator("mark")).to_have_text("gramophone")
    hit.click()
    found = hers.locator(".row", has_text="the gramophone is mended")
    expect(found).to_be_in_viewport()
    expect(found).to_be_focused()


def test_all_that_is_found_can_be_looked_at(talk: tuple[Person, Page, Page]) -> None:
    bob, hers, _ = talk
    identity = hers.url.rsplit("/", 1)[1]
    say(bob, identity, *(f"of all the oars in all the boats the gramophone {number}" for number in range(60)))
    hers.get_by_label("Search", exact=True).fill("gramophone")
    hits = hers.locator(".hit")
    expect(hits).to_have_count(50)
    inside = (
        "(one, of) => one.getBoundingClientRect()[of] <= one.closest('.preview').getBoundingClientRect()[of]"
    )
    for edge in ("right", "bottom"):
        assert hits.first.locator("mark").evaluate(inside, edge)
    hers.get_by_role("button", name="Show more").click()
    expect(hits).to_have_count(60)
    expect(hits.nth(50)).to_be_focused()
    expect(hers.get_by_role("button", name="Show more")).to_have_count(0)
