"""Chromium, driven by Playwright, and what the tests of the page watch in it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.support.people import PASSWORD, Person

PATIENCE = 20_000
"""Milliseconds until what was expected counts as missing."""
MISSING = "Chromium is not installed. On Debian and Ubuntu: apt-get install chromium"
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


def executable() -> str | None:
    """Where Chromium is."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A running Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


class Device:
    """A browser context of its own, at one server; what the page complains of is kept in `complaints`."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url = url.replace("127.0.0.1", "localhost")
        self.context: BrowserContext = browser.new_context(**options)
        self.context.set_default_timeout(PATIENCE)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page: Page = self.context.new_page()
        self.watch(self.page)

    def watch(self, page: Page) -> None:
        """Keep what goes wrong, a violated Content-Security-Policy included."""
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on(
            "console",
            lambda said: (
                self.complaints.append(said.text)
                if said.type == "error" and ("Content Security Policy" in said.text or "Trusted" in said.text)
                else None
            ),
        )
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self, path: str = "/") -> Page:
        """Go to the page."""
        self.page.goto(self.url + path)
        return self.page

    def sign_in(self, who: Person | str, password: str = PASSWORD) -> Page:
        """Sign in, and wait until the conversation list is there. A person shares their session with the page: to
        prove a password takes a quarter of a second of CPU by design, and is not what most tests are about."""
        page = self.open()
        username = who if isinstance(who, str) else who.username
        if isinstance(who, Person):
            login = who.login
            page.route("**/v1/auth/login", lambda route: route.fulfill(json=login), times=1)
        page.get_by_label("Username or email").fill(username)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("navigation", name="Chats").wait_for()
        return page

    def close(self) -> None:
        """Close it."""
        self.context.close()
