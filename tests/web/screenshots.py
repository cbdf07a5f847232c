"""Pictures of every view, for docs/ and for eyes: `python -m tests.web.screenshots FOLDER`."""

from __future__ import annotations

import base64
import struct
import sys
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.support.people import PASSWORD, Person, befriend
from tests.support.processes import Deployment
from tests.web.browser import MISSING, Device, chromium, executable
from tests.web.steps import info

SIZES = {390: 844, 768: 1024, 1440: 900}
SCHEMES = ("light", "dark")
QUALITY = 72
PEOPLE = {
    "mara": "Mara Lindqvist",
    "jonas": "Jonas Okafor",
    "layla": "ليلى حسن",
    "wei": "王小薇",
    "max": "Maximilian-Alexander von und zu Hohenlohe-Waldenburg the Younger",
    "sam": "Sam 🦊",
}
STRANGERS = {"nora": "Nora Vidal", "tomas": "Tomás Brandt"}
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
CREW = (
    ("jonas", "Welcome aboard, everybody. Who brings what?"),
    ("wei", "我带茶和点心 🍵"),
    ("layla", "سأحضر الليمونادة"),
    ("sam", "I have a tent. It sleeps two, or one and a fox."),
    ("mara", "Biscuits are settled. @jonas, is the oar really coming?"),
    ("jonas", "It is in the hallway, and everybody trips over it."),
    ("max", "I shall bring a gramophone, weather permitting."),
    ("sam", "A typo that nobody needs to see"),
    ("jonas", "@mara could you post where we meet?"),
)


def drawing(width: int = 720, height: int = 480) -> bytes:
    """A lake at dusk, as PNG."""
    rows = bytearray()
    for y in range(height):
        rows.append(0)
        high = y / height
        for x in range(width):
            sun = ((x - width * 0.68) ** 2 + (y - height * 0.42) ** 2) ** 0.5 < height * 0.11
            hill = high > 0.5 - 0.16 * abs(((x / width * 3) % 2) - 1)
            if high > 0.58:
                glitter = (x * 7 + y * 13) % 97 < 2 and abs(x - width * 0.68) < (y - height * 0.5) * 0.8
                colour = (250, 214, 165) if glitter else (30 + int(40 * high), 92 + int(30 * high), 110)
            elif hill:
                colour = (26, 74, 70)
            elif sun:
                colour = (255, 224, 160)
            else:
                colour = (240 - int(60 * high), 168 + int(40 * high), 130 + int(90 * high))
            rows += bytes(colour)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(rows), 9))
        + chunk(b"IEND", b"")
    )


@contextmanager
def world() -> Iterator[str]:
    """A server with people who have talked."""
    with Deployment() as deployment:
        deployment.environment["CHATBE_RATE_LIMITS"] = "off"
        deployment.manage("migrate", "--verbosity", "0")
        url = deployment.server().url
        people = {name: Person(url, name) for name in (*PEOPLE, *STRANGERS)}
        for name, person in people.items():
            shown = {**PEOPLE, **STRANGERS}[name]
            assert person.http.patch("/v1/me", json={"display_name": shown}).status_code == 200
        befriend(*(people[name] for name in PEOPLE))
        for name in STRANGERS:
            people[name].add("mara")
        say(people, HARD, direct(people, "mara", "max"))
        say(people, (("mara", "Are you up?"),), direct(people, "mara", "sam"))
        say(
            people,
            (
                ("layla", "صباح الخير! هل ستأتين يوم السبت؟ Bring the red umbrella ☂️"),
                ("mara", "نعم، بالتأكيد"),
            ),
            direct(people, "mara", "layla"),
        )
        say(
            people,
            (("wei", "周六十点在桥边见!我会带茶和点心。"), ("wei", "别忘了带帽子")),
            direct(people, "mara", "wei"),
        )
        make_crew(people)
        say(people, TALK, direct(people, "mara", "jonas"))
        for person in people.values():
            person.http.close()
        yield url


def make_crew(people: dict[str, Person]) -> None:
    """A group, whose members have answered, reacted, edited, deleted, and sent files."""
    answer = people["jonas"].http.post(
        "/v1/conversations",
        json={
            "kind": "group",
            "title": "The lake on Saturday",
            "description": "Boat, biscuits and whoever has the second oar.",
            "members": ["mara", "layla", "wei", "max", "sam"],
        },
    )
    assert answer.status_code == 201, answer.text
    crew = answer.json()["id"]
    path = f"/v1/conversations/{crew}/messages"
    first, *_, typo, _ = say(people, CREW, crew)
    for name, emoji in (("mara", "👍"), ("layla", "👍"), ("sam", "🎉"), ("wei", "👍")):
        people[name].http.put(f"{path}/{first}/reactions/{emoji}").raise_for_status()
    people["sam"].http.delete(f"{path}/{typo}").raise_for_status()
    people["mara"].http.patch(
        f"{path}/{first + 4}", json={"body": "Biscuits are settled! @jonas, is the oar really coming?"}
    ).raise_for_status()
    people["mara"].http.post(
        path, json={"body": "On the left bank, under the willows.", "reply_to": first + 8}
    ).raise_for_status()
    files = [
        ("lake at dusk.png", drawing()),
        ("Packing list for everybody who comes along.txt", b"tea\n"),
    ]
    ids = []
    for name, content in files:
        answer = people["jonas"].http.post("/v1/attachments", files={"file": (name, content)})
        assert answer.status_code == 201, answer.text
        ids.append(answer.json()["id"])
    people["jonas"].http.post(
        path, json={"body": "It looked like this yesterday:", "attachments": ids}
    ).raise_for_status()


def direct(people: dict[str, Person], one: str, other: str) -> str:
    """Two people's conversation."""
    answer = people[one].http.post("/v1/conversations", json={"kind": "direct", "username": other})
    identity: str = answer.json()["id"]
    return identity


def say(people: dict[str, Person], lines: tuple[tuple[str, str], ...], conversation: str) -> list[int]:
    """Let people talk; returns the seqs."""
    seqs = []
    for sender, body in lines:
        answer = people[sender].http.post(
            f"/v1/conversations/{conversation}/messages", json={"client_id": str(uuid.uuid4()), "body": body}
        )
        assert answer.status_code == 201, answer.text
        seqs.append(answer.json()["seq"])
    return seqs


def open_chat(page: Page, name: str) -> None:
    """Open the conversation with somebody."""
    page.evaluate("location.hash = ''")
    page.get_by_role("link", name=name).first.click()
    page.locator(".row").last.wait_for()


class Camera:
    """Takes the pictures of one device."""

    def __init__(self, device: Device, folder: Path, end: str) -> None:
        self._page = device.page
        self._height = device.page.evaluate("innerHeight")
        self._session = device.context.new_cdp_session(device.page)
        self._folder = folder
        self._end = end

    def __call__(self, name: str) -> None:
        """Take one, when all pictures are there and nothing moves any more."""
        self._page.mouse.move(1, self._height - 1)
        expect(self._page.locator(".picture img:not([src])")).to_have_count(0)
        self._page.evaluate(
            "Promise.all([...[...document.images].map((one) => one.decode()), ...document.getAnimations()"
            ".filter((one) => one.effect.getTiming().iterations === 1).map((one) => one.finished)]"
            ".map((one) => one.catch(() => null)))"
        )
        taken = self._session.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
        (self._folder / f"{name}-{self._end}.webp").write_bytes(base64.b64decode(taken["data"]))


def entrance(page: Page, picture: Camera) -> None:
    """Before one is signed in."""
    page.get_by_label("Password").wait_for()
    picture("sign-in")
    page.get_by_role("button", name="Create an account").click()
    page.get_by_role("button", name="Create account").click()
    page.locator(".field-error:not(:empty)").first.wait_for()
    picture("sign-up-errors")


def chats(page: Page, picture: Camera, theirs: Page) -> None:
    """The list, and what one sees in conversations."""
    page.locator(".conversation .avatar").first.wait_for()
    page.locator(".skeleton").first.wait_for(state="hidden")
    picture("chats")
    open_chat(page, "Jonas")
    theirs.get_by_label("Message", exact=True).press_sequentially("I am", delay=5)
    page.locator(".typing-line .dots").wait_for()
    picture("chat")
    theirs.get_by_label("Message", exact=True).fill("")
    open_chat(page, "The lake on Saturday")
    picture("group")
    page.locator(".row").nth(5).focus()
    page.keyboard.press("Enter")
    page.get_by_role("menu").wait_for()
    picture("message-menu")
    page.keyboard.press("Escape")
    page.get_by_label("Message", exact=True).fill("Thank you, @")
    page.get_by_role("listbox").wait_for()
    picture("mention")
    page.get_by_label("Message", exact=True).fill("")
    info(page)
    page.locator(".person").first.wait_for()
    picture("group-info")
    page.keyboard.press("Escape")
    page.locator(".picture").last.click()
    page.locator(".frame img").wait_for()
    picture("picture")
    page.keyboard.press("Escape")


def texts(page: Page, picture: Camera) -> None:
    """Names and texts that are hard to show."""
    open_chat(page, "Maximilian")
    picture("hard-texts")
    open_chat(page, "ليلى")
    picture("arabic")
    open_chat(page, "王小薇")
    page.get_by_label("Message", exact=True).fill("好的!👋")
    picture("chinese")


def dialogs(page: Page, picture: Camera) -> None:
    """What lies over the list."""
    page.evaluate("location.hash = ''")
    page.get_by_label("Search", exact=True).fill("oar")
    page.locator(".hits").get_by_text("Searching…").wait_for(state="hidden")
    picture("search")
    page.get_by_label("Search", exact=True).fill("")
    page.get_by_role("button", name="New chat").click()
    page.locator(".person").first.wait_for()
    picture("new-chat")
    page.get_by_role("button", name="New group").click()
    page.get_by_label("Name of the group").fill("Gramophone evening")
    page.locator(".choice").nth(1).click()
    page.locator(".choice").nth(3).click()
    picture("new-group")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Settings").click()
    page.locator(".device .tag").wait_for()
    picture("settings")
    page.keyboard.press("Escape")


def take(browser: Browser, url: str, folder: Path) -> None:
    """Take them all."""
    jonas = Device(browser, url, viewport={"width": 1024, "height": 700})
    theirs = jonas.sign_in("jonas")
    open_chat(theirs, "Mara")
    for width, height in SIZES.items():
        for scheme in SCHEMES:
            device = Device(browser, url, viewport={"width": width, "height": height}, color_scheme=scheme)
            picture = Camera(device, folder, f"{width}-{scheme}")
            page = device.open()
            entrance(page, picture)
            device.sign_in("mara", PASSWORD)
            chats(page, picture, theirs)
            texts(page, picture)
            dialogs(page, picture)
            open_chat(page, "王小薇")
            device.context.set_offline(True)
            page.get_by_label("Message", exact=True).fill("在隧道里")
            page.get_by_label("Message", exact=True).press("Enter")
            page.locator(".connection").wait_for()
            picture("offline")
            page.locator(".me").evaluate("one => one.click()")
            page.locator(".toast.bad").wait_for()
            picture("error")
            device.close()
            print(width, scheme, device.complaints or "", flush=True)
    newcomer = Person(url, "ines")
    for width, height in SIZES.items():
        device = Device(browser, url, viewport={"width": width, "height": height})
        page = device.sign_in(newcomer.username)
        page.get_by_text("No chats yet.").wait_for()
        Camera(device, folder, f"{width}-light")("empty")
        device.close()


def main(folder: Path) -> None:
    """Take the pictures."""
    if executable() is None:
        raise SystemExit(MISSING)
    folder.mkdir(parents=True, exist_ok=True)
    with world() as url, chromium() as browser:
        take(browser, url, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
