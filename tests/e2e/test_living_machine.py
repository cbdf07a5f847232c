"""All actions in any order, by anybody, while devices come and go: whoever is there in the end holds the truth."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.mirror import Mirror, fetch
from tests.support.people import Person, close_all, new_name
from tests.support.processes import AppServer, Deployment

WHO = st.integers(0, 3)
SEQS = st.integers(1, 12)
EMOJI = st.sampled_from(["👍", "❤", "❤️", "🎉", "x"])
BODIES = st.sampled_from(["hello", "hello again", "hello @all", "@{0} and @{1}", "mail@{2}"])


@pytest.fixture(autouse=True)
def _close_connections() -> None:
    """The cast of this module stays on stage."""


@pytest.fixture(scope="module")
def people(servers: list[AppServer]) -> Iterator[list[Person]]:
    yield [Person(servers[number % 2].url, new_name(f"person{number}")) for number in range(4)]
    close_all()


class Device:
    """One person's device: live, or away with what it held."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.held: dict[str, Any] = {}
        self.mirror: Mirror | None = None
        self.come()

    def go(self) -> None:
        if self.mirror is not None:
            # Not all that is on its way: as if the connection had been cut.
            self.mirror.take()
            self.held = copy.deepcopy(self.mirror.state)
            self.mirror.socket.close()
            self.mirror = None

    def come(self) -> None:
        if self.mirror is None:
            self.mirror = Mirror(self.person, self.person.socket())
            self.mirror.state = copy.deepcopy(self.held)
            for held in self.mirror.state.values():
                held.muted = None
            self.mirror.socket.sync({key: held.rev for key, held in self.mirror.state.items()})


class Machine(RuleBasedStateMachine):
    cast: list[Person]
    devices: list[Device]
    deployment: Deployment
    purged = False

    @initialize(history=st.sampled_from(["joined", "all"]), others=st.sets(st.integers(1, 3)))
    def begin(self, history: str, others: set[int]) -> None:
        answer = self.cast[0].http.post(
            "/v1/conversations",
            json={
                "kind": "group",
                "title": "Machine",
                "history": history,
                "members": [self.cast[number].username for number in sorted(others)],
            },
        )
        assert answer.status_code == 201, answer.text
        self.id = answer.json()["id"]

    def teardown(self) -> None:
        if not hasattr(self, "id"):
            return
        for device in self.devices:
            device.come()
        for device in self.devices:
            fresh = fetch(device.person, self.id)
            mirror = device.mirror
            assert mirror is not None
            assert mirror.holds(self.id, fresh)
            mirror.socket.ask_time()
            mirror.take()
            assert (self.id in mirror.state) == (fresh is not None)
            # Others' examples are not this one's.
            device.held.clear()
            mirror.state = {self.id: mirror.state[self.id]} if self.id in mirror.state else {}
            mirror.snapshots.clear()

    def http(self, who: int, method: str, path: str, **body: Any) -> None:
        url = f"/v1/conversations/{self.id}" + (f"/{path}" if path else "")
        answer = self.cast[who].http.request(method, url, json=body or None)
        assert answer.status_code < 500, answer.text

    def frame(self, who: int, **frame: Any) -> None:
        mirror = self.devices[who].mirror
        if mirror is not None:
            answer = mirror.change(conversation=self.id, **frame)
            assert answer["type"] == "ack" or answer["code"] in {
                "not_found", "forbidden", "conflict", "invalid",
            }, answer  # fmt: skip

    @rule(who=WHO, body=BODIES, reply_to=st.none() | SEQS)
    def send(self, who: int, body: str, reply_to: int | None) -> None:
        text = body.format(*(person.username for person in self.cast))
        mirror = self.devices[who].mirror
        fields = {} if reply_to is None else {"reply_to": reply_to}
        if mirror is not None:
            answer = mirror.send(self.id, text, **fields)
            assert answer["type"] == "ack" or answer["code"] == "not_found", answer
        else:
            self.http(who, "POST", "messages", body=text, **fields)

    @rule(who=WHO)
    def attach(self, who: int) -> None:
        mirror = self.devices[who].mirror
        if mirror is not None:
            answer = mirror.send(self.id, "", attachments=[mirror.upload(b"text")])
            assert answer["type"] == "ack" or answer["code"] == "not_found", answer

    @rule(seq=SEQS)
    @precondition(lambda self: not self.purged)
    def purge(self, seq: int) -> None:
        # A process each time: once per example.
        self.purged = True
        self.deployment.manage(
            "shell", "--no-imports", "-c",
            "from datetime import timedelta; from uuid import UUID; from chatbe.core import clock;"
            "from messaging import retention; from messaging.models import Message;"
            f"key = UUID('{self.id}'); then = clock.now() - timedelta(days=100);"
            f"Message.objects.filter(conversation=key, seq__lte={seq}).update(created_at=then);"
            "retention.purge(before=then + timedelta(days=1), conversations=[key])",
        )  # fmt: skip

    @rule(who=WHO, seq=SEQS, body=BODIES)
    def edit(self, who: int, seq: int, body: str) -> None:
        self.frame(who, type="edit", seq=seq, body=body)

    @rule(who=WHO, seq=SEQS)
    def delete(self, who: int, seq: int) -> None:
        self.frame(who, type="delete", seq=seq)

    @rule(who=WHO, seq=SEQS, emoji=EMOJI, on=st.booleans())
    def react(self, who: int, seq: int, emoji: str, *, on: bool) -> None:
        self.frame(who, type="react", seq=seq, emoji=emoji, on=on)

    @rule(who=WHO, whom=st.sets(WHO, min_size=1))
    def add(self, who: int, whom: set[int]) -> None:
        self.http(who, "POST", "members", usernames=[self.cast[each].username for each in sorted(whom)])

    @rule(who=WHO, whom=WHO)
    def remove(self, who: int, whom: int) -> None:
        self.http(who, "DELETE", f"members/{self.cast[whom].username}")

    @rule(who=WHO, whom=WHO, role=st.sampled_from(["owner", "admin", "member"]))
    def set_role(self, who: int, whom: int, role: str) -> None:
        self.http(who, "PATCH", f"members/{self.cast[whom].username}", role=role)

    @rule(who=WHO, title=st.sampled_from(["One", "Two"]), history=st.sampled_from(["joined", "all"]))
    def update(self, who: int, title: str, history: str) -> None:
        self.http(who, "PATCH", "", title=title, history=history)

    @rule(who=WHO, seq=SEQS)
    def mark(self, who: int, seq: int) -> None:
        self.http(who, "PUT", "read", seq=seq)

    @rule(who=WHO, on=st.booleans())
    def mute(self, who: int, *, on: bool) -> None:
        url = f"/v1/conversations/{self.id}/mute"
        until = "2036-01-31T12:00:00.000000Z" if on else None
        assert self.cast[who].http.put(url, json={"until": until}).status_code in {204, 404}

    @rule(who=WHO)
    def go(self, who: int) -> None:
        self.devices[who].go()

    @rule(who=WHO)
    @precondition(lambda self: any(device.mirror is None for device in self.devices))
    def come(self, who: int) -> None:
        self.devices[who].come()


def test_whoever_is_there_in_the_end_holds_the_truth(people: list[Person], shared: Deployment) -> None:
    devices = [Device(person) for person in people]
    machine: Any = type("Staged", (Machine,), {"cast": people, "devices": devices, "deployment": shared})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=10,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        ),
    )
