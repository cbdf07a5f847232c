"""What is refused on the socket: with which code, and that nothing changes by it."""

from __future__ import annotations

import json
import uuid

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus

from tests.support.people import PASSWORD, Frame, Person, Socket, befriend, new_name
from tests.support.processes import AppServer, Deployment


@pytest.fixture
def alice(servers: list[AppServer]) -> Person:
    """Someone."""
    return Person(servers[0].url, new_name("alice"))


@pytest.fixture
def bob(servers: list[AppServer]) -> Person:
    """Someone whom alice does not know."""
    return Person(servers[1].url, new_name("bob"))


def send(socket: Socket, to: dict[str, str], body: str = "hello", **fields: object) -> Frame:
    """The answer to one send."""
    ref = uuid.uuid4().hex
    socket.send(type="send", ref=ref, to=to, client_id=str(uuid.uuid4()), body=body, **fields)
    return socket.answer(ref)


def test_only_a_contact_may_be_written_to_first(alice: Person, bob: Person) -> None:
    with alice.live() as socket, bob.live() as other:
        assert send(socket, {"username": bob.username})["code"] == "not_contact"
        assert bob.http.get("/v1/conversations").json()["results"] == []
        bob.add(alice.username)
        assert send(socket, {"username": bob.username})["code"] == "not_contact"
        alice.add(bob.username)
        assert send(socket, {"username": bob.username})["type"] == "ack"
        assert other.expect("message")["message"]["seq"] == 1


def test_whoever_was_written_to_may_answer(alice: Person, bob: Person) -> None:
    alice.add(bob.username)
    with alice.live() as socket, bob.live() as other:
        conversation = send(socket, {"username": bob.username})["conversation"]
        assert send(other, {"conversation": conversation})["type"] == "ack"
        assert send(other, {"username": alice.username})["seq"] == 3


def test_a_block_beats_everything(alice: Person, bob: Person) -> None:
    befriend(alice, bob)
    with alice.live() as socket, bob.live() as other:
        conversation = send(socket, {"username": bob.username})["conversation"]
        assert bob.http.put(f"/v1/blocks/{alice.username}").status_code == 204
        assert send(socket, {"username": bob.username})["code"] == "blocked"
        assert send(socket, {"conversation": conversation})["code"] == "blocked"
        over_http = alice.http.post(f"/v1/conversations/{conversation}/messages", json={"body": "hello?"})
        assert (over_http.status_code, over_http.json()["code"]) == (403, "blocked")
        assert bob.http.delete(f"/v1/blocks/{alice.username}").status_code == 204
        assert send(socket, {"username": bob.username})["seq"] == 2
        assert [message["seq"] for message in bob.history(conversation)] == [1, 2]
        other.ask_time()


def test_a_block_before_the_first_message_makes_no_conversation(alice: Person, bob: Person) -> None:
    alice.add(bob.username)
    assert bob.http.put(f"/v1/blocks/{alice.username}").status_code == 204
    with alice.live() as socket:
        assert send(socket, {"username": bob.username})["code"] == "blocked"
    assert alice.http.get("/v1/conversations").json()["results"] == []


def test_a_foreign_conversation_is_not_found(alice: Person, bob: Person, servers: list[AppServer]) -> None:
    carol = Person(servers[0].url, new_name("carol"))
    alice.add(bob.username)
    with alice.live() as socket, carol.live() as stranger:
        conversation = send(socket, {"username": bob.username})["conversation"]
        for target in (conversation, str(uuid.uuid4())):
            assert send(stranger, {"conversation": target})["code"] == "not_found"
            for kind in ("read", "delivered"):
                stranger.send(type=kind, ref=kind, conversation=target, seq=1)
                assert stranger.answer(kind)["code"] == "not_found"
            stranger.send(type="typing", ref="typing", conversation=target, on=True)
            assert stranger.answer("typing")["code"] == "not_found"
            for path in ("", "/messages", "/changes"):
                assert carol.http.get(f"/v1/conversations/{target}{path}").status_code == 404
            answer = carol.http.post(f"/v1/conversations/{target}/messages", json={"body": "x"})
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
            assert carol.http.put(f"/v1/conversations/{target}/read", json={"seq": 1}).status_code == 404
        assert send(socket, {"username": bob.username})["seq"] == 2


def test_a_repeat_is_acknowledged_when_nobody_is_there_any_more(
    alice: Person, bob: Person, servers: list[AppServer]
) -> None:
    alice.add(bob.username)
    frame = {
        "type": "send", "to": {"username": bob.username}, "client_id": str(uuid.uuid4()), "body": "hello",
    }  # fmt: skip
    # The other server has not found the way to bob before.
    with alice.live(servers[0].url) as socket, alice.live(servers[1].url) as other:
        socket.send(ref="first", **frame)
        first = socket.answer("first")
        assert bob.http.request("DELETE", "/v1/me", json={"password": PASSWORD}).status_code == 204
        for each in (socket, other):
            each.send(ref="again", **frame)
            again = each.answer("again")
            assert (again["type"], again["duplicate"], again["id"]) == ("ack", True, first["id"])
        assert send(other, {"username": bob.username})["code"] == "not_found"


def test_targets_that_are_none(alice: Person) -> None:
    with alice.live() as socket:
        assert send(socket, {"username": "nobody.at.all"})["code"] == "not_found"
        assert send(socket, {"username": "\0"})["code"] == "not_found"
        assert send(socket, {"username": alice.username})["code"] == "invalid"
        assert send(socket, {})["code"] == "invalid"
        assert send(socket, {"username": "x", "conversation": str(uuid.uuid4())})["code"] == "invalid"


def test_bodies_and_replies_that_are_none(alice: Person, bob: Person) -> None:
    alice.add(bob.username)
    to = {"username": bob.username}
    with alice.live() as socket:
        assert send(socket, to, "")["code"] == "invalid"
        assert send(socket, to, "x" * 4001)["code"] == "invalid"
        assert send(socket, to, "a\0b")["code"] == "invalid"
        assert send(socket, to, reply_to=1)["code"] == "not_found"
        assert send(socket, to, "😀" * 4000)["seq"] == 1
        assert send(socket, to, reply_to=2)["code"] == "not_found"
        assert send(socket, to, reply_to=1)["seq"] == 2


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bad_frame"),
        ("{", "bad_frame"),
        ("[]", "bad_frame"),
        ("17", "bad_frame"),
        ("null", "bad_frame"),
        ("{}", "bad_frame"),
        ('{"type": 3}', "bad_frame"),
        ('{"type": "nonsense"}', "unknown_type"),
        ('{"type": "ack"}', "unknown_type"),
        ('{"type": "send"}', "invalid"),
        ('{"type": "read", "conversation": "x", "seq": 1}', "invalid"),
        ('{"type": "sync", "others": "some"}', "invalid"),
        ('{"type": "heartbeat", "ref": "' + "r" * 65 + '"}', "invalid"),
    ],
)
def test_texts_that_are_no_frames(alice: Person, text: str, code: str) -> None:
    with alice.live() as socket:
        socket.send_raw(text)
        assert socket.expect("error")["code"] == code
        socket.ask_time()


def test_a_frame_of_65_kib_is_too_large_and_the_next_is_taken(alice: Person) -> None:
    with alice.live() as socket:
        socket.send_raw(json.dumps({"type": "heartbeat", "filler": "x" * 65 * 1024}))
        assert socket.expect("error")["code"] == "too_large"
        socket.ask_time()


def test_a_frame_far_over_the_limit_closes_the_socket(alice: Person) -> None:
    with alice.live() as socket:
        socket.send_raw("x" * 1024 * 1024)
        assert socket.closed() == 1009


def test_a_binary_frame_closes_the_socket(alice: Person) -> None:
    with alice.live() as socket:
        socket.send_raw(b"\x00\x01")
        assert socket.closed() == 1003


def test_a_socket_syncs_once(alice: Person) -> None:
    with alice.live() as socket:
        socket.send(type="sync", ref="again")
        assert socket.answer("again")["code"] == "conflict"


def test_nothing_of_a_conversation_comes_before_sync(alice: Person, bob: Person) -> None:
    befriend(alice, bob)
    with alice.live() as writing, bob.socket() as waiting:
        writing.message(bob.username, "early")
        waiting.ask_time()
        assert {frame["type"] for frame in waiting.frames} <= {"welcome", "friends", "presence", "heartbeat"}
        events = waiting.sync(others="all")
        assert [frame["message"]["body"] for frame in events if frame["type"] == "message"] == ["early"]


@pytest.mark.parametrize(
    "credentials", ["", "?otp=wrong&username={username}", "?otp={otp}", "?otp={otp}&username=other"]
)
def test_whoever_is_not_signed_in_is_closed_with_4401(
    alice: Person, servers: list[AppServer], credentials: str
) -> None:
    query = credentials.format(otp=alice.otp(), username=alice.username)
    assert Socket(servers[0].socket_url, query=query).closed() == 4401


def test_a_one_time_password_opens_one_socket(alice: Person, servers: list[AppServer]) -> None:
    query = f"?otp={alice.otp()}&username={alice.username.upper()}"
    first = Socket(servers[0].socket_url, query=query)
    assert first.expect("welcome")["user"] == alice.username
    assert Socket(servers[1].socket_url, query=query).closed() == 4401
    first.ask_time()


def test_a_browser_signs_in_by_subprotocol(alice: Person, servers: list[AppServer]) -> None:
    socket = Socket(servers[0].socket_url, subprotocols=["chatbe.v1", f"otp.{alice.otp()}"])
    assert socket.connection.subprotocol == "chatbe.v1"
    assert socket.expect("welcome")["user"] == alice.username


def test_a_foreign_page_opens_no_socket(alice: Person, servers: list[AppServer]) -> None:
    query = f"?otp={alice.otp()}&username={alice.username}"
    for origin in ("https://evil.example", "null", "http://127.0.0.1.evil.example", "file://"):
        with pytest.raises(InvalidStatus) as refused:
            Socket(servers[0].socket_url, query=query, origin=origin)
        assert refused.value.response.status_code == 403
    own = Socket(servers[0].socket_url, query=query, origin=servers[0].url)
    own.expect("welcome")


def test_an_expired_one_time_password_opens_nothing(deployment: Deployment) -> None:
    deployment.environment["CHATBE_OTP_LIFETIME"] = "0"
    server = deployment.server()
    alice = Person(server.url, "alice")
    assert Socket(server.socket_url, query=f"?otp={alice.otp()}&username=alice").closed() == 4401


def test_an_expired_token_is_refused_and_its_session_renews_it(deployment: Deployment) -> None:
    deployment.environment["CHATBE_ACCESS_LIFETIME"] = "0"
    server = deployment.server()
    alice = Person(server.url, "alice")
    answer = alice.http.get("/v1/me")
    assert answer.status_code == 401
    assert answer.headers["Content-Type"] == "application/problem+json"
    renewed = httpx.post(f"{server.url}/v1/auth/token", json={"refresh_token": alice.login["refresh_token"]})
    assert renewed.status_code == 200
    spent = httpx.post(f"{server.url}/v1/auth/token", json={"refresh_token": alice.login["refresh_token"]})
    assert spent.status_code == 401


def test_a_revoked_session_closes_its_sockets_on_every_server(
    alice: Person, servers: list[AppServer]
) -> None:
    with alice.live(servers[0].url) as here, alice.live(servers[1].url) as there:
        old = alice.login["session_id"]
        alice.sign_in()
        with alice.live(servers[1].url) as other:
            assert alice.http.delete(f"/v1/auth/sessions/{old}").status_code == 204
            assert here.closed() == there.closed() == 4001
            other.ask_time()


def test_a_changed_password_ends_the_other_sessions(alice: Person) -> None:
    with alice.live() as old:
        alice.sign_in()
        answer = alice.http.post(
            "/v1/auth/password",
            json={"current_password": PASSWORD, "new_password": "another river 77 at noon"},
        )
        assert answer.status_code == 204
        assert old.closed() == 4001
        assert alice.http.get("/v1/me").status_code == 200


def test_a_flood_is_limited_and_slows_nobody_else(deployment: Deployment) -> None:
    deployment.environment.update(CHATBE_FRAME_BURST="5", CHATBE_FRAME_RATE="0.5")
    server = deployment.server()
    alice, bob = Person(server.url, "alice"), Person(server.url, "bob")
    befriend(alice, bob)
    with alice.live() as flooding, bob.live() as quiet:
        for _ in range(20):
            flooding.send(type="typing", conversation=str(uuid.uuid4()), on=False)
        flooding.send(type="send", ref="late", to={"username": "bob"}, client_id=str(uuid.uuid4()), body="x")
        refused = flooding.answer("late")
        assert refused["code"] == "rate_limited"
        assert refused["retry_after"] > 0
        assert quiet.message("alice", "calm")["seq"] == 1
        flooding.expect("message")


NAMES = ["type", "ref", "to", "body", "seq", "conversation", "client_id", "username"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.sampled_from(NAMES) | st.text(), children),
    max_leaves=8,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(text=st.text() | JSON.map(json.dumps))
def test_no_text_breaks_a_socket(shared_socket: Socket, text: str) -> None:
    shared_socket.send_raw(text.encode("utf-8", "replace").decode())
    shared_socket.ask_time()


@pytest.fixture
def shared_socket(alice: Person) -> Socket:
    """One socket for all examples."""
    return alice.live()
