"""For every action: the state that a client held before, with the frames that it was sent, equals the state fetched
afresh; on live sockets, by `sync` and `changes` from every earlier rev, and for a member who left and came back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.mirror import Held, Mirror, catch_up, fetch, resync
from tests.support.people import Frame, Person, close_all, new_name
from tests.support.processes import AppServer, Deployment

# On SQLite the state machine of all actions (`test_living_machine.py`) says the same.
pytestmark = pytest.mark.cluster

NAMES = ("owner", "admin", "member", "returning", "newcomer")


@pytest.fixture(autouse=True)
def _close_connections() -> None:
    """The cast of this module stays on stage from test to test."""


@pytest.fixture(scope="module")
def people(servers: list[AppServer]) -> Iterator[dict[str, Person]]:
    """Those who act, on both servers in turn."""
    yield {name: Person(servers[place % 2].url, new_name(name)) for place, name in enumerate(NAMES)}
    close_all()


class Scene:
    """A group of four; one of them left and came back, another may be added."""

    def __init__(self, people: dict[str, Person], deployment: Deployment, *, history: str) -> None:
        self.people = people
        self.deployment = deployment
        self.stack = contextlib.ExitStack()
        self.mirrors = {
            name: Mirror(person, self.stack.enter_context(person.live())) for name, person in people.items()
        }
        for mirror in self.mirrors.values():
            mirror.take()
            mirror.snapshots.clear()
        self.id = ""
        made = self.http(
            "owner", "POST", "",
            kind="group", title="Four", history=history,
            members=[self.name(each) for each in ("admin", "member", "returning")],
        )  # fmt: skip
        self.id = made["id"]
        for mirror in self.mirrors.values():
            if mirror is not self.mirrors["newcomer"]:
                assert mirror.knows(self.id)
        self.http("owner", "PATCH", f"members/{self.name('admin')}", role="admin")
        for name in ("owner", "admin", "member", "returning"):
            self.say(name, f"from {name}")
        self.react("admin", 1, "👍")
        self.settled()
        self.http("returning", "DELETE", f"members/{self.name('returning')}")
        assert self.mirrors["returning"].until(lambda: self.id not in self.mirrors["returning"].state)
        self.say("member", "while one is away")
        self.change("member", type="edit", seq=3, body="edited meanwhile")
        self.http("admin", "POST", "members", usernames=[self.name("returning")])
        assert self.mirrors["returning"].knows(self.id)
        self.last = self.say("returning", "back again")["seq"]

    def name(self, who: str) -> str:
        return self.people[who].username

    def http(self, who: str, method: str, path: str, **body: Any) -> Frame:
        parts = ["/v1/conversations", self.id, path]
        url = "/".join(part for part in parts if part)
        answer = self.people[who].http.request(method, url, json=body or None)
        assert answer.status_code < 300, answer.text
        result: Frame = answer.json() if answer.content else {}
        return result

    def say(self, who: str, body: str, **fields: Any) -> Frame:
        ack = self.mirrors[who].send(self.id, body, **fields)
        assert ack["type"] == "ack", ack
        return ack

    def change(self, who: str, **frame: Any) -> Frame:
        ack = self.mirrors[who].change(conversation=self.id, **frame)
        assert ack["type"] == "ack", ack
        return ack

    def attach(self, who: str, body: str = "") -> Frame:
        return self.say(who, body, attachments=[self.mirrors[who].upload(who.encode())])

    def react(self, who: str, seq: int, emoji: str, *, on: bool = True) -> Frame:
        return self.change(who, type="react", seq=seq, emoji=emoji, on=on)

    def settled(self) -> dict[str, Held | None]:
        """Wait until every live socket holds what is fetched afresh; returns that."""
        fresh = {name: fetch(person, self.id) for name, person in self.people.items()}
        for name, mirror in self.mirrors.items():
            assert mirror.holds(self.id, fresh[name])
        for name, mirror in self.mirrors.items():
            # Nothing comes after that would change it.
            mirror.socket.ask_time()
            mirror.take()
            expected = fresh[name]
            assert (self.id in mirror.state) == (expected is not None)
            assert expected is None or mirror.state[self.id].comparable() == expected.comparable()
        return fresh

    def from_every_rev(self, fresh: dict[str, Held | None], *names: str) -> None:
        """Whoever comes back from any earlier state holds the same."""
        for name in names:
            person, expected = self.people[name], fresh[name]
            snapshots = [each for each in self.mirrors[name].snapshots if each.conversation == self.id]
            for snapshot in snapshots[:: -(-len(snapshots) // MANY) or 1]:
                place = (name, snapshot.held.rev)
                synced = resync(person, snapshot)
                assert (synced is None) == (expected is None), place
                asked = catch_up(person, snapshot)
                assert (asked is None) == (expected is None), place
                if synced is None or asked is None or expected is None:
                    continue
                assert synced.comparable() == expected.comparable(), place
                asked.marks, asked.muted = expected.marks, expected.muted
                assert asked.comparable() == expected.comparable(), place


def edit(scene: Scene) -> None:
    scene.change("member", type="edit", seq=3, body="said @nobody, meant @" + scene.name("owner"))


def delete_edited(scene: Scene) -> None:
    scene.react("owner", 3, "🎉")
    scene.change("member", type="delete", seq=3)


def attach_and_delete(scene: Scene) -> None:
    first = scene.attach("member", "the one @" + scene.name("admin"))["seq"]
    scene.attach("owner")
    scene.change("member", type="edit", seq=first, body="the other")
    scene.change("admin", type="delete", seq=scene.attach("member")["seq"])


def purge(scene: Scene) -> None:
    """All but the last message are old; what comes after goes on."""
    scene.deployment.manage(
        "shell", "--no-imports", "-c",
        "from datetime import timedelta; from uuid import UUID; from django.db.models import F;"
        "from messaging.models import Message;"
        f"Message.objects.filter(conversation=UUID('{scene.id}'), seq__lt={scene.last})"
        ".update(created_at=F('created_at') - timedelta(days=100))",
    )  # fmt: skip
    scene.deployment.manage("purge", "--older-than", "90d", "--conversation", scene.id)
    scene.say("member", "to what is left", reply_to=scene.last)


def react_by_many(scene: Scene) -> None:
    for name in ("owner", "admin", "member", "returning"):
        scene.react(name, scene.last, "❤")
    scene.react("member", scene.last, "❤️", on=False)
    scene.http("owner", "PUT", f"messages/{scene.last}/reactions/%F0%9F%8E%89")
    scene.http("owner", "DELETE", f"messages/{scene.last}/reactions/%F0%9F%8E%89")


def remove_and_return(scene: Scene) -> None:
    scene.http("admin", "DELETE", f"members/{scene.name('member')}")
    scene.say("owner", "without them")
    scene.http("owner", "POST", "members", usernames=[scene.name("member")])
    scene.say("owner", "with them again")


def remove_several_times(scene: Scene) -> None:
    for _ in range(3):
        scene.http("admin", "DELETE", f"members/{scene.name('member')}")
        scene.http("owner", "POST", "members", usernames=[scene.name("member"), scene.name("newcomer")])
    scene.http("admin", "DELETE", f"members/{scene.name('newcomer')}")


def hand_over_and_leave(scene: Scene) -> None:
    scene.http("owner", "PATCH", f"members/{scene.name('member')}", role="owner")
    scene.http("owner", "DELETE", f"members/{scene.name('owner')}")


def mute(scene: Scene) -> None:
    scene.http("member", "PUT", "mute", until="2036-01-31T12:00:00.000000Z")
    scene.http("owner", "PUT", "mute", until="2036-01-31T12:00:00.000000Z")
    scene.people["owner"].http.put(f"/v1/conversations/{scene.id}/mute", json={"until": None})


def mark(scene: Scene) -> None:
    scene.mirrors["owner"].socket.send(type="read", conversation=scene.id, seq=scene.last)
    scene.mirrors["admin"].socket.send(type="delivered", conversation=scene.id, seq=scene.last)
    scene.http("member", "PUT", "read", seq=2)
    for name, place in (("owner", 0), ("admin", 1)):
        _wait_for_mark(scene, name, place)


def _wait_for_mark(scene: Scene, name: str, place: int) -> None:
    """A mark is not answered; it is heard of on another's device."""
    mirror = scene.mirrors["member"]

    def heard() -> bool:
        held = mirror.state.get(scene.id)
        return held is not None and held.marks.get(scene.name(name), [0, 0])[place] >= scene.last

    assert mirror.until(heard)


def everything(scene: Scene) -> None:
    """The last state of each thing is one among many."""
    for act in ACTIONS.values():
        if act not in (everything, hand_over_and_leave, dissolve):
            act(scene)
            scene.last = scene.say("owner", "go on")["seq"]
    hand_over_and_leave(scene)


def dissolve(scene: Scene) -> None:
    scene.http("owner", "DELETE", "")


def rename(scene: Scene) -> None:
    scene.http("admin", "PATCH", "", title="Another name", description="What it is about")


def add(scene: Scene) -> None:
    scene.http("owner", "POST", "members", usernames=[scene.name("newcomer")])
    scene.react("newcomer", scene.say("newcomer", "hello")["seq"], "👋")


ACTIONS: dict[str, Callable[[Scene], object]] = {
    "send": lambda scene: scene.say("member", "one more"),
    "reply": lambda scene: scene.say("member", "to that", reply_to=scene.last),
    "mention": lambda scene: scene.say("member", f"hello @{scene.name('admin').upper()}."),
    "mention all": lambda scene: scene.say("admin", "hello @all"),
    "edit": edit,
    "delete": delete_edited,
    "delete another's": lambda scene: scene.change("admin", type="delete", seq=scene.last),
    "attach": attach_and_delete,
    "purge": purge,
    "react": react_by_many,
    "rename": rename,
    "history": lambda scene: scene.http("owner", "PATCH", "", history="all"),
    "add": add,
    "remove and return": remove_and_return,
    "remove several times": remove_several_times,
    "promote": lambda scene: scene.http("owner", "PATCH", f"members/{scene.name('member')}", role="admin"),
    "step down": lambda scene: scene.http("admin", "PATCH", f"members/{scene.name('admin')}", role="member"),
    "read": mark,
    "mute": mute,
    "hand over": hand_over_and_leave,
    "dissolve": dissolve,
    "everything": everything,
}


# Where what is theirs to see does not hang on it, one kind of history is enough.
OF_MEMBERSHIP = {
    "purge", "history", "add", "remove and return", "remove several times", "hand over", "dissolve", "everything",
}  # fmt: skip
MANY = 15
"""Earlier states from which one comes back, at most; the single actions have fewer."""


@pytest.mark.parametrize(
    ("action", "history"),
    [
        *((action, "joined") for action in ACTIONS),
        *((action, "all") for action in ACTIONS if action in OF_MEMBERSHIP),
    ],
)
def test_the_old_state_and_the_frames_give_the_new_state(
    people: dict[str, Person], shared: Deployment, action: str, history: str
) -> None:
    scene = Scene(people, shared, history=history)
    with scene.stack:
        before = scene.settled()
        assert before["returning"] is not None
        hidden = 1 not in before["returning"].messages
        assert hidden == (history == "joined")
        ACTIONS[action](scene)
        fresh = scene.settled()
        scene.from_every_rev(fresh, "member", "returning", "newcomer")
