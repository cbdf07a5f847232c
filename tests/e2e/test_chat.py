"""People chat through real server processes; what the newcomer sees on the first day."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

import pytest

from tests.support.people import Frame, Person, Socket, befriend, new_name
from tests.support.processes import AppServer, Deployment


@pytest.fixture
def people(servers: list[AppServer]) -> tuple[Person, Person]:
    """Alice, on the first server, and bob, on the second: contacts of each other."""
    alice, bob = Person(servers[0].url, new_name("alice")), Person(servers[1].url, new_name("bob"))
    befriend(alice, bob)
    return alice, bob


@pytest.fixture
def sockets(people: tuple[Person, Person]) -> Iterator[tuple[Socket, Socket]]:
    """A live socket of each."""
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(person.live()) for person in people)  # type: ignore[misc]  # two of them


def bodies(frames: list[Frame]) -> list[str]:
    """What the messages among frames say."""
    return [frame["message"]["body"] for frame in frames if frame["type"] == "message"]


def test_two_people_chat(sockets: tuple[Socket, Socket]) -> None:
    alice, bob = sockets
    ack = alice.message(bob.username, "hello")
    assert (ack["seq"], ack["rev"], ack["duplicate"]) == (1, 1, False)
    message = bob.expect("message")["message"]
    assert message["body"] == "hello"
    assert message["sender"] == alice.username
    assert (message["id"], message["seq"], message["rev"]) == (ack["id"], 1, 1)
    answer = bob.message(alice.username, "hello yourself")
    assert answer["conversation"] == ack["conversation"]
    assert alice.expect("message")["message"]["body"] == "hello yourself"


def test_the_first_message_comes_with_its_conversation(sockets: tuple[Socket, Socket]) -> None:
    alice, bob = sockets
    alice.message(bob.username, "hello")
    kinds = []
    while "message" not in kinds:
        kinds.append(bob.receive()["type"])
    assert kinds.index("conversation") < kinds.index("message")


def test_messages_of_one_socket_are_stored_in_the_order_of_sending(sockets: tuple[Socket, Socket]) -> None:
    alice, bob = sockets
    for number in range(200):
        alice.send(
            type="send",
            ref=str(number),
            to={"username": bob.username},
            client_id=str(uuid.uuid4()),
            body=str(number),
        )
    acks = [alice.expect("ack") for _ in range(200)]
    assert [ack["ref"] for ack in acks] == [str(number) for number in range(200)]
    assert [ack["seq"] for ack in acks] == list(range(1, 201))
    received = [bob.expect("message")["message"] for _ in range(200)]
    assert [message["body"] for message in received] == [str(number) for number in range(200)]
    assert [message["rev"] for message in received] == list(range(1, 201))


def test_a_repeated_client_id_gets_the_first_ack(
    sockets: tuple[Socket, Socket], people: tuple[Person, Person], servers: list[AppServer]
) -> None:
    alice, bob = sockets
    client_id = str(uuid.uuid4())
    first = alice.message(bob.username, "once", client_id=client_id)
    again = alice.message(bob.username, "once", client_id=client_id)
    with people[0].live(servers[1].url) as elsewhere:
        third = elsewhere.message(bob.username, "once", client_id=client_id)
    over_http = people[0].http.post(
        f"/v1/conversations/{first['conversation']}/messages", json={"client_id": client_id, "body": "once"}
    )
    assert over_http.status_code == 200
    assert over_http.json()["id"] == first["id"]
    for repeat in (again, third):
        assert repeat == {**first, "ref": repeat["ref"], "duplicate": True}
    alice.message(bob.username, "next")
    assert bodies([bob.expect("message"), bob.expect("message")]) == ["once", "next"]


def test_sending_over_http_reaches_the_sockets(
    sockets: tuple[Socket, Socket], people: tuple[Person, Person]
) -> None:
    alice, bob = sockets
    conversation = alice.message(bob.username, "first")["conversation"]
    answer = people[1].http.post(f"/v1/conversations/{conversation}/messages", json={"body": "by post"})
    assert answer.status_code == 201
    assert alice.expect("message")["message"]["body"] == "by post"
    assert bob.expect("message", lambda frame: frame["message"]["body"] == "by post")["message"]["seq"] == 2


def test_my_other_device_sees_what_i_send(
    sockets: tuple[Socket, Socket], people: tuple[Person, Person]
) -> None:
    alice, bob = sockets
    with people[0].live() as other:
        ack = alice.message(bob.username, "from my desk")
        message = other.expect("message")["message"]
        assert (message["rev"], message["body"]) == (ack["rev"], "from my desk")
    assert not alice.of_type("message")


def test_typing_and_receipts_cross(sockets: tuple[Socket, Socket]) -> None:
    alice, bob = sockets
    conversation = alice.message(bob.username, "are you there?")["conversation"]
    bob.expect("message")
    bob.send(type="delivered", conversation=conversation, seq=1)
    receipt = alice.expect("receipt")
    assert (receipt["username"], receipt["read"], receipt["delivered"]) == (bob.username, 0, 1)
    bob.send(type="typing", conversation=conversation, on=True)
    assert alice.expect("typing") == {
        "type": "typing",
        "conversation": conversation,
        "username": bob.username,
        "on": True,
    }
    bob.send(type="typing", conversation=conversation, on=False)
    assert alice.expect("typing")["on"] is False
    bob.send(type="read", conversation=conversation, seq=99)
    receipt = alice.expect("receipt")
    assert (receipt["read"], receipt["delivered"]) == (1, 1)


def test_typing_ends_by_itself(sockets: tuple[Socket, Socket]) -> None:
    alice, bob = sockets
    conversation = alice.message(bob.username, "?")["conversation"]
    bob.send(type="typing", conversation=conversation, on=True)
    assert alice.expect("typing")["on"] is True
    assert alice.expect("typing")["on"] is False


def test_whoever_was_away_gets_exactly_what_was_missed(
    people: tuple[Person, Person], servers: list[AppServer]
) -> None:
    alice, bob = people
    with alice.live() as writing, bob.live() as reading:
        conversation = writing.message(bob.username, "0")["conversation"]
        seen = reading.expect("message")["message"]["rev"]
        reading.close()
        for number in range(1, 351):
            writing.message(bob.username, str(number))
        listed = bob.http.get("/v1/conversations").json()["results"]
        assert [(item["id"], item["unread"]) for item in listed] == [(conversation, 351)]
        assert listed[0]["last_message"]["body"] == "350"
        with bob.socket(servers[0].url) as back:
            missed = back.sync({conversation: seen})
            assert bodies(missed) == [str(number) for number in range(1, 351)]
            assert [frame["message"]["rev"] for frame in missed if frame["type"] == "message"] == list(
                range(2, 352)
            )
            marks = next(frame for frame in missed if frame["type"] == "marks")["marks"]
            assert marks[conversation] == {alice.username: [351, 351], bob.username: [0, 0]}
            writing.message(bob.username, "live again")
            assert back.expect("message")["message"]["body"] == "live again"
    history: list[str] = []
    page = bob.history(conversation, limit=100)
    while page:
        history[:0] = [message["body"] for message in page]
        page = bob.history(conversation, limit=100, before=page[0]["seq"])
    assert history == [*(str(number) for number in range(351)), "live again"]


def test_sync_without_cursors_tells_the_state_or_everything(people: tuple[Person, Person]) -> None:
    alice, bob = people
    with alice.live() as writing:
        conversation = writing.message(bob.username, "one")["conversation"]
        writing.message(bob.username, "two")
    with bob.socket() as socket:
        frames = socket.sync()
        states = [frame["conversation"] for frame in frames if frame["type"] == "conversation"]
        assert [(state["id"], state["rev"], state["last_seq"]) for state in states] == [(conversation, 2, 2)]
        assert not bodies(frames)
    with bob.socket() as socket:
        assert bodies(socket.sync(others="all")) == ["one", "two"]


def test_a_rev_ahead_of_the_database_is_answered_with_reset(people: tuple[Person, Person]) -> None:
    alice, bob = people
    with alice.live() as writing:
        conversation = writing.message(bob.username, "one")["conversation"]
    with bob.socket() as socket:
        frames = socket.sync({conversation: 17})
        reset = next(frame for frame in frames if frame["type"] == "conversation")
        assert reset["reset"] is True
        assert reset["conversation"]["rev"] == 1


def test_changes_are_the_events_of_the_stream(people: tuple[Person, Person]) -> None:
    alice, bob = people
    with alice.live() as writing:
        conversation = writing.message(bob.username, "one")["conversation"]
        for number in range(4):
            writing.message(bob.username, str(number))
    first = bob.http.get(f"/v1/conversations/{conversation}/changes", params={"since": 1, "limit": 3}).json()
    assert bodies(first["results"]) == ["0", "1", "2"]
    assert (first["rev"], first["more"]) == (4, True)
    rest = bob.http.get(f"/v1/conversations/{conversation}/changes", params={"since": first["rev"]}).json()
    assert bodies(rest["results"]) == ["3"]
    assert (rest["rev"], rest["more"]) == (5, False)


def test_a_restart_keeps_everything(deployment: Deployment) -> None:
    server = deployment.server()
    alice, bob = Person(server.url, "alice"), Person(server.url, "bob")
    befriend(alice, bob)
    with alice.live() as socket:
        conversation = socket.message(bob.username, "before")["conversation"]
    server.kill()
    server.start()
    assert [message["body"] for message in bob.history(conversation)] == ["before"]
    with alice.live() as writing, bob.live() as reading:
        writing.message(bob.username, "after")
        assert reading.expect("message")["message"]["seq"] == 2


def test_presence_follows_sockets(people: tuple[Person, Person]) -> None:
    alice, bob = people
    with alice.live() as watching:
        with bob.live():
            assert watching.expect("presence")["online"] is True
            contact = alice.http.get("/v1/contacts").json()["results"][0]
            assert (contact["username"], contact["mutual"], contact["online"]) == (bob.username, True, True)
        gone = watching.expect("presence")
        assert gone["online"] is False
        assert gone["last_seen"] is not None


def test_several_devices_are_one_presence_and_logout_tells_at_once(people: tuple[Person, Person]) -> None:
    alice, bob = people
    with alice.live() as watching, bob.live() as first:
        assert watching.expect("presence")["online"] is True
        with bob.live():
            pass
        first.ask_time()
        assert bob.http.post("/v1/auth/logout").status_code == 204
        assert first.closed() == 4001
        assert watching.expect("presence")["online"] is False
        assert [frame["online"] for frame in watching.of_type("presence")] == [True, False]


@pytest.mark.cluster
def test_a_killed_servers_users_are_told_offline_once(deployment: Deployment) -> None:
    deployment.environment.update(CHATBE_PRESENCE_LEASE="3", CHATBE_PRESENCE_SWEEP="0.5")
    first, second = deployment.server(), deployment.server()
    alice, bob = Person(first.url, "alice"), Person(first.url, "bob")
    befriend(alice, bob)
    with alice.live() as watching:
        bob.live(second.url)
        assert watching.expect("presence")["online"] is True
        second.kill()
        assert watching.expect("presence")["online"] is False
        watching.ask_time()
        assert [frame["online"] for frame in watching.of_type("presence")] == [True, False]


def test_contacts_and_blocks_change_what_is_seen(people: tuple[Person, Person]) -> None:
    alice, bob = people
    with alice.live() as watching, bob.live() as other:
        assert watching.expect("presence")["online"] is True
        assert alice.http.delete(f"/v1/contacts/{bob.username}").status_code == 204
        assert watching.expect("presence")["online"] is None
        told = other.expect("contact")
        assert (told["username"], told["added"], told["mutual"]) == (alice.username, False, False)
        alice.add(bob.username)
        assert watching.expect("presence")["online"] is True
        assert bob.http.put(f"/v1/blocks/{alice.username}").status_code == 204
        assert watching.expect("presence")["online"] is None


def test_a_drain_says_bye_with_a_ticket_for_the_next_socket(deployment: Deployment) -> None:
    server = deployment.server()
    bob = Person(server.url, "bob")
    socket = bob.live()
    code = server.terminate()
    bye = socket.expect("bye")
    assert bye["code"] == 1012
    assert bye["reconnect_after"] > 0
    assert socket.closed() == 1012
    assert code == 0
    server.start()
    again = Socket(server.socket_url, query=f"?otp={bye['otp']}&username=bob")
    assert again.expect("welcome")["user"] == "bob"


def test_who_is_added_to_a_group_is_not_told_their_contacts_again(servers: list[AppServer]) -> None:
    alice, bob = Person(servers[0].url, new_name("alice")), Person(servers[1].url, new_name("bob"))
    befriend(alice, bob)
    socket = bob.live()
    before = len(socket.of_type("friends"))
    answer = alice.http.post(
        "/v1/conversations", json={"kind": "group", "title": "Group", "members": [bob.username]}
    )
    assert answer.status_code == 201, answer.text
    group = answer.json()["id"]
    socket.expect("conversation", lambda frame: frame["conversation"]["id"] == group)
    with alice.live() as writer:
        writer.send(
            type="send", ref="m", to={"conversation": group}, client_id=str(uuid.uuid4()), body="Hello"
        )
        socket.expect("message", lambda frame: frame["message"]["body"] == "Hello")
    assert len(socket.of_type("friends")) == before
    socket.close()
