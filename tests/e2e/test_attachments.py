"""Files, searches and retention through real server processes."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.support.people import Frame, Person, befriend, new_name
from tests.support.processes import AppServer, Deployment


@pytest.fixture
def people(servers: list[AppServer]) -> tuple[Person, Person]:
    """Alice, on the first server, and bob, on the second: contacts of each other."""
    alice, bob = Person(servers[0].url, new_name("alice")), Person(servers[1].url, new_name("bob"))
    befriend(alice, bob)
    return alice, bob


def picture() -> bytes:
    """A PNG of some megabytes."""
    file = BytesIO()
    Image.effect_noise((1200, 1000), 90).convert("RGB").save(file, format="PNG")
    return file.getvalue()


def upload(person: Person, data: bytes, name: str = "noise.png") -> Frame:
    answer = person.http.post("/v1/attachments", files={"file": (name, data)})
    assert answer.status_code == 201, answer.text
    found: Frame = answer.json()
    return found


def test_a_file_is_sent_over_the_socket_and_fetched_elsewhere(people: tuple[Person, Person]) -> None:
    alice, bob = people
    data = picture()
    assert len(data) > 1_000_000
    file = upload(alice, data)
    mine, theirs = alice.live(), bob.live()
    client_id = str(uuid.uuid4())
    for ref in ("first", "again"):
        mine.send(type="send", ref=ref, to={"username": bob.username}, client_id=client_id, body="",
                  attachments=[file["id"]])  # fmt: skip
        answer = mine.answer(ref)
        assert (answer["type"], answer.get("duplicate")) == ("ack", ref == "again"), answer
    message = theirs.expect("message")["message"]
    assert message["body"] == ""
    (attachment,) = message["attachments"]
    assert (attachment["id"], attachment["name"], attachment["width"]) == (file["id"], "noise.png", 1200)
    links = bob.http.get(f"/v1/attachments/{attachment['id']}").json()
    content = httpx.get(links["url"])
    assert (content.status_code, content.headers["content-type"]) == (200, "image/png")
    assert Image.open(BytesIO(content.content)).size == (1200, 1000)
    part = httpx.get(links["url"], headers={"Range": "bytes=0-7"})
    assert (part.status_code, part.content) == (206, b"\x89PNG\r\n\x1a\n")
    assert httpx.get(links["thumbnail_url"]).headers["content-type"] == "image/webp"


def test_what_is_sent_after_a_file_does_not_overtake_it(people: tuple[Person, Person]) -> None:
    alice, bob = people
    file = upload(alice, b"hello", "a.txt")
    mine, theirs = alice.live(), bob.live()
    mine.message(bob.username, "0")
    for number in range(1, 20):
        mine.send(type="send", ref=str(number), to={"username": bob.username}, client_id=str(uuid.uuid4()),
                  body=str(number), attachments=[file["id"]] if number == 3 else [])  # fmt: skip
    bodies = [theirs.expect("message")["message"]["body"] for _ in range(20)]
    assert bodies == [str(number) for number in range(20)]


def test_frames_with_files_that_cannot_be_sent(people: tuple[Person, Person]) -> None:
    alice, bob = people
    theirs = upload(bob, b"hello", "a.txt")["id"]
    mine, used = upload(alice, b"hello", "a.txt")["id"], upload(alice, b"hello", "a.txt")["id"]
    with alice.live() as socket_:
        first = socket_.message(bob.username, "hello")

        def refused(ids: list[str], body: str = "x") -> str:
            socket_.send(type="send", ref="r", to={"conversation": first["conversation"]},
                         client_id=str(uuid.uuid4()), body=body, attachments=ids)  # fmt: skip
            answer = socket_.answer("r")
            return str(answer.get("code", answer["type"]))

        assert refused([used]) == "ack"
        assert refused([used]) == "conflict"
        assert refused([theirs]) == refused([str(uuid.uuid4())]) == "not_found"
        assert refused([mine, mine]) == refused(["x"]) == refused([], "") == "invalid"
        assert refused([str(uuid.uuid4()) for _ in range(11)]) == "invalid"
        bob.http.put(f"/v1/blocks/{alice.username}")
        assert refused([mine]) == "blocked"
        bob.http.delete(f"/v1/blocks/{alice.username}")
        assert refused([mine], "") == "ack"
    assert len(alice.history(first["conversation"])) == 3


def test_an_upload_in_chunks_and_one_that_is_too_large(people: tuple[Person, Person]) -> None:
    alice, _ = people
    boundary = "x" * 20
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'.encode()

    def body(size: int) -> Iterator[bytes]:
        yield head
        for _ in range(size // 50_000):
            yield b"y" * 50_000
        yield f"\r\n--{boundary}--\r\n".encode()

    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    answer = alice.http.post("/v1/attachments", content=body(1_000_000), headers=headers)
    assert (answer.status_code, answer.json().get("size")) == (201, 1_000_000), answer.text
    answer = alice.http.post("/v1/attachments", files={"file": b"y" * (10 * 1024 * 1024 + 1)})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    answer = alice.http.post("/v1/attachments", files={"file": b"y" * (11 * 1024 * 1024)})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_an_upload_that_is_cut_off_leaves_nothing(deployment: Deployment) -> None:
    server = deployment.server()
    alice = Person(server.url, new_name("alice"))
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    address = (str(httpx.URL(server.url).host), httpx.URL(server.url).port)
    token = alice.http.headers["Authorization"]
    for length, ended in ((10_000_000, False), (len(head) + 1000, True)):
        with socket.create_connection(address) as connection:
            connection.sendall(
                f"POST /v1/attachments HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n"
                f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {length}\r\n\r\n".encode()
                + head + b"y" * 1000
            )  # fmt: skip
            if ended:
                # The form has no end, though the body has.
                assert b" 400 " in connection.recv(4096)
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    folder = Path(deployment.environment["CHATBE_VAR_DIR"]) / "attachments"
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert "0 attachments" in deployment.manage("attachments")


def test_searches_find_what_was_said_a_moment_ago(people: tuple[Person, Person]) -> None:
    alice, bob = people
    with alice.live() as mine:
        ack = mine.message(bob.username, "the heron stands in the river")
    answer = bob.http.get("/v1/search", params={"q": "heron -egret", "conversation": ack["conversation"]})
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    assert (result["message"]["seq"], result["message"]["sender"]) == (1, alice.username)
    assert [piece["text"] for piece in result["snippet"] if piece["match"]] == ["heron"]


def test_what_is_purged_is_told_to_those_who_are_here_and_to_those_who_come_back(
    deployment: Deployment,
) -> None:
    server = deployment.server()
    alice, bob = Person(server.url, new_name("alice")), Person(server.url, new_name("bob"))
    befriend(alice, bob)
    file = upload(alice, b"hello", "a.txt")
    mine = alice.live()
    ack = mine.message(bob.username, "one")
    key = ack["conversation"]
    mine.send(type="send", ref="f", to={"conversation": key}, client_id=str(uuid.uuid4()), body="two",
              attachments=[file["id"]])  # fmt: skip
    mine.answer("f")
    with bob.live() as theirs:
        # Nothing is older than an hour; what is older than none is everything but what is sent meanwhile.
        assert deployment.manage("purge", "--older-than", "1h") == "0 messages deleted.\n"
        deployment.manage(
            "shell", "--no-imports", "-c",
            "from messaging.models import Message; from datetime import timedelta; from django.db.models import F;"
            "Message.objects.update(created_at=F('created_at') - timedelta(hours=2))",
        )  # fmt: skip
        assert deployment.manage("purge", "--older-than", "1h") == "2 messages deleted.\n"
        event = theirs.expect("conversation", lambda frame: frame["conversation"]["purged_seq"] == 2)
        assert event["conversation"]["rev"] == 3
    assert mine.message(bob.username, "three")["rev"] == 4
    with bob.socket() as theirs:
        frames = theirs.sync({key: 1})
    kinds = [frame["type"] for frame in frames if frame["type"] in {"conversation", "message"}]
    assert kinds == ["conversation", "message"]
    assert [message["body"] for message in bob.history(key)] == ["three"]
    assert bob.http.get(f"/v1/attachments/{file['id']}").status_code == 404
    folder = Path(deployment.environment["CHATBE_VAR_DIR"]) / "attachments"
    assert [path for path in folder.rglob("*") if path.is_file()] == []
