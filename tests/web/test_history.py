"""A conversation of ten thousand messages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.people import PASSWORD, Person
from tests.support.processes import AppServer, Deployment
from tests.web.browser import Device
from tests.web.steps import group, pair, say

TOTAL = 10_000
MOST_ROWS = 120
STEPS = 60
MOST_LAYOUTS = 8
"""Layouts of the page for one step of scrolling, on average: a few, not one for each row."""
MOST_NODES = 20_000

AT_TOP = """() => {
    const top = document.querySelector('.scroller').getBoundingClientRect().top;
    const row = [...document.querySelectorAll('.row')].find((one) => one.getBoundingClientRect().bottom > top + 5);
    return row && [Number(row.getAttribute('aria-posinset')), row.innerText, row.getBoundingClientRect().top];
}"""
"""The first row that can be seen: its place among what is loaded, its text, where it is."""
AT_REST = f"""async () => {{
    const look = {AT_TOP};
    let [before, still] = [look(), 0];
    while (still < 3) {{
        await new Promise((done) => requestAnimationFrame(done));
        const now = look();
        still = now && before && now.every((value, place) => value === before[place]) ? still + 1 : 0;
        before = now;
    }}
    return before;
}}"""
"""The same, once it has been there for some frames: rows are measured when they are first drawn."""
FRAME = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture(scope="module")
def long_talk(shared: Deployment, servers: list[AppServer]) -> tuple[Person, Person, str]:
    """Two people with ten thousand messages."""
    shared.manage(
        *("seed", "--users", "2", "--conversations", "1", "--messages", str(TOTAL)),
        *("--password", PASSWORD, "--verbosity", "0"),
    )
    one, other = (Person(servers[0].url, name, register=False) for name in ("user000001", "user000002"))
    return one, other, one.http.get("/v1/conversations").json()["results"][0]["id"]


def loaded(page: Page) -> int:
    """How many messages are loaded."""
    return int(page.locator(".row").first.get_attribute("aria-setsize") or 0)


def test_ten_thousand_messages_scroll(
    device: Callable[..., Device], long_talk: tuple[Person, Person, str]
) -> None:
    one, other, identity = long_talk
    hers = device(viewport={"width": 1000, "height": 800})
    page = hers.sign_in(one)
    page.evaluate(f"location.hash = '#/c/{identity}'")
    page.locator(".row").last.wait_for()

    # Earlier messages come while somebody looks: what they look at stays where it is.
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/messages?before=*", hold)
    page.evaluate("document.querySelector('.scroller').scrollTop = 900")
    expect(page.locator(".thread-notice.is-loading")).to_be_visible()
    _, text, top = page.evaluate(AT_REST)
    before = loaded(page)
    while not held:
        page.wait_for_timeout(5)
    held[0].continue_()
    page.unroute("**/messages?before=*", hold)
    expect(page.locator(".row").first).not_to_have_attribute("aria-setsize", str(before))
    _, same_text, same_top = page.evaluate(AT_REST)
    assert (same_text, round(same_top)) == (text, round(top))

    while (count := loaded(page)) < TOTAL:
        page.evaluate("document.querySelector('.scroller').scrollTop = 0")
        expect(page.locator(".row").first).not_to_have_attribute("aria-setsize", str(count))
        # What is in the page stays little, however long the history.
        assert page.locator(".row").count() < MOST_ROWS

    session = hers.context.new_cdp_session(page)
    session.send("Performance.enable")
    layouts = metric(session.send("Performance.getMetrics"), "LayoutCount")
    rows = page.evaluate(
        f"""async () => {{
            const scroller = document.querySelector('.scroller');
            let most = 0;
            for (let step = 1; step <= {STEPS}; step += 1) {{
                scroller.scrollTop = scroller.scrollHeight * (step % 20) / 25 + step * 37;
                await {FRAME};
                most = Math.max(most, document.querySelectorAll('.row').length);
            }}
            return most;
        }}"""
    )
    after = session.send("Performance.getMetrics")
    assert rows < MOST_ROWS
    assert (metric(after, "LayoutCount") - layouts) / STEPS <= MOST_LAYOUTS
    assert metric(after, "Nodes") < MOST_NODES

    # News at the end do not move it either, and are told of.
    page.evaluate("document.querySelector('.scroller').scrollTop = 200000")
    here = page.evaluate(AT_REST)
    say(other, identity, "news")
    expect(page.locator(".to-end .badge")).to_have_text("1")
    assert page.evaluate(AT_REST) == here
    page.get_by_role("button", name="To the newest message").click()
    expect(page.locator(".row .body").last).to_have_text("news")


def test_what_is_said_while_an_empty_history_is_on_its_way(
    device: Callable[..., Device], servers: list[AppServer]
) -> None:
    alice, bob = pair(servers)
    identity = group(alice, "Crew", bob)
    page = device(servers[1]).sign_in(bob)

    def answer_late(route: Route) -> None:
        answer = route.fetch()
        say(alice, identity, "just now")
        expect(page.get_by_role("link", name="just now")).to_be_visible()
        route.fulfill(response=answer)

    page.get_by_role("link", name="Crew").wait_for()
    page.route("**/messages?*", answer_late, times=1)
    page.get_by_role("link", name="Crew").click()
    expect(page.locator(".row .body")).to_have_text(["just now"])


def metric(metrics: dict[str, list[dict[str, float]]], name: str) -> float:
    """One of Chromium's counters of the page."""
    return next(each["value"] for each in metrics["metrics"] if str(each["name"]) == name)
