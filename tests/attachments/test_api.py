"""`/v1/attachments`: what is taken and what is not, who may fetch, and what is left on disk."""

from __future__ import annotations

import time
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core import signing
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test.utils import CaptureQueriesContext
from PIL import Image
from rest_framework.test import APIClient

from attachments import selectors, services
from attachments.models import Attachment
from chatbe.core import clock
from messaging import groups
from messaging import services as messaging
from messaging.models import Conversation, Membership, Message
from tests.attachments.conftest import Kept, World, bomb, encoded, gradient
from tests.messaging.conftest import consistent
from tests.support.http import Device

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fanned_out")]

PICTURE = encoded(gradient(), "PNG")


def upload(device: Device, data: bytes = PICTURE, name: str = "river.png") -> Any:
    file = SimpleUploadedFile(name, data, content_type="text/html")
    return device.http.post("/v1/attachments", {"file": file}, format="multipart")


def uploaded(device: Device, data: bytes = PICTURE, name: str = "river.png") -> dict[str, Any]:
    response = upload(device, data, name)
    assert response.status_code == 201, response.content
    body: dict[str, Any] = response.json()
    return body


def send(device: Device, conversation: UUID | str, *ids: str, body: str = "look", **fields: Any) -> Any:
    return device.post(f"/v1/conversations/{conversation}/messages", body=body, attachments=ids, **fields)


def path_of(address: str) -> str:
    assert address.startswith("http://testserver/v1/attachments/")
    return address.removeprefix("http://testserver")


def fetched(address: str, **headers: str) -> Any:
    return APIClient().get(path_of(address), headers=headers)


def talk(world: World) -> tuple[Device, Device, UUID]:
    alice, bob = world.friends("alice", "bob")
    return alice, bob, UUID(world.say(alice, "bob", "hello")[0].conversation)


def test_a_picture_is_uploaded_sent_and_fetched(world: World, kept: Kept) -> None:
    alice, bob, key = talk(world)
    mine = uploaded(alice)
    row = Attachment.objects.get()
    assert mine["id"] == str(row.pk)
    assert (mine["name"], mine["content_type"], mine["width"], mine["height"], mine["thumbnail"]) == (
        "river.png", "image/png", 640, 480, True,
    )  # fmt: skip
    assert kept() == sorted([row.path, row.thumbnail_path])
    sent = send(alice, key, mine["id"])
    assert sent.status_code == 201, sent.content
    described = {
        name: mine[name] for name in ("id", "name", "content_type", "size", "width", "height", "thumbnail")
    }
    assert sent.json()["attachments"] == [described]
    page = bob.get(f"/v1/conversations/{key}/messages").json()["results"]
    assert [message["attachments"] for message in page] == [[], [described]]
    changes = bob.get(f"/v1/conversations/{key}/changes").json()["results"]
    assert changes[-1]["message"]["attachments"] == [described]
    links = bob.get(f"/v1/attachments/{mine['id']}").json()
    content = fetched(links["url"])
    assert content.status_code == 200
    assert len(content.content) == mine["size"]
    assert Image.open(BytesIO(content.content)).size == (640, 480)
    assert content["Content-Type"] == "image/png"
    assert content["Content-Disposition"] == 'attachment; filename="river.png"'
    assert content["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in content["Content-Security-Policy"]
    thumbnail = fetched(links["thumbnail_url"])
    assert thumbnail["Content-Type"] == "image/webp"
    assert Image.open(BytesIO(thumbnail.content)).size == (320, 240)


def test_what_is_no_picture_is_kept_as_it_is(world: World, kept: Kept) -> None:
    alice, _, _ = talk(world)
    data = b"<html><script>alert(1)</script>"
    mine = uploaded(alice, data, "page.html")
    assert (mine["name"], mine["content_type"], mine["size"]) == (
        "page.html.txt", "text/plain; charset=utf-8", len(data),
    )  # fmt: skip
    assert (mine["width"], mine["height"], mine["thumbnail"], mine["thumbnail_url"]) == (
        None,
        None,
        False,
        None,
    )
    response = fetched(mine["url"])
    assert response.content == data
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    assert response["Content-Disposition"].startswith("attachment")
    assert len(kept()) == 1


def test_what_is_refused_leaves_nothing(world: World, kept: Kept, settings: Any) -> None:
    alice, _, _ = talk(world)
    settings.CHATBE_ATTACHMENT_BYTES = 200_000
    settings.CHATBE_ATTACHMENT_QUOTA = 300_000
    for data, status, code, field in (
        (bomb(), 413, "too_large", None),
        (b"\x7fELF" + b"\0" * 100, 415, "unsupported_media_type", None),
        (b"x" * 200_001, 413, "too_large", None),
        (b"", 400, "invalid", "file"),
        (PICTURE[: len(PICTURE) // 2], 400, "invalid", "file"),
    ):
        response = upload(alice, data)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert [error["field"] for error in response.json().get("errors", [])] == ([field] if field else [])
        assert response["Content-Type"] == "application/problem+json"
    assert (kept(), Attachment.objects.count()) == ([], 0)
    uploaded(alice, b"x" * 199_999, "a.txt")
    response = upload(alice, b"x" * 150_000, "b.txt")
    assert (response.status_code, response.json()["code"]) == (403, "over_quota")
    assert "100001 more bytes" in response.json()["detail"]
    assert (len(kept()), Attachment.objects.count()) == (1, 1)


def test_forms_that_are_none(world: World, kept: Kept) -> None:
    alice, _, _ = talk(world)
    boundary = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nhello'
    for body, content_type, status in (
        (b"{}", "application/json", 415),
        (b"", "multipart/form-data; boundary=x", 400),
        (b"nonsense", "multipart/form-data", 400),
        (b"nonsense", "multipart/form-data; boundary=x", 400),
        (boundary.replace(b"file", b"other"), "multipart/form-data; boundary=x", 400),
    ):
        response = alice.http.post("/v1/attachments", body, content_type=content_type)
        assert response.status_code == status, (body, content_type, response.content)
    assert alice.http.post("/v1/attachments", {"file": "text"}, format="multipart").status_code == 400
    assert APIClient().post("/v1/attachments").status_code == 401
    assert (kept(), Attachment.objects.count()) == ([], 0)


def test_a_storage_that_fails_leaves_nothing(
    world: World, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, _, _ = talk(world)
    store = services.storage()
    save = store.save

    def failing(name: str, content: Any, **options: Any) -> str:
        if name.endswith("-thumbnail"):
            raise OSError("the disk is full")
        return save(name, content, **options)

    monkeypatch.setattr(store, "save", failing)
    with pytest.raises(OSError, match="the disk is full"):
        services.attachment_upload(user=alice.user, file=BytesIO(PICTURE), size=len(PICTURE), name="a.png")
    assert (kept(), Attachment.objects.count()) == ([], 0)


def test_only_members_fetch_and_only_what_they_may_read(world: World) -> None:
    alice, bob, carol = world.friends("alice", "bob", "carol")
    group = world.group(alice, bob)
    mine = uploaded(alice)
    for other in (bob, carol):
        assert other.get(f"/v1/attachments/{mine['id']}").status_code == 404
    assert alice.get(f"/v1/attachments/{mine['id']}").status_code == 200
    assert send(alice, group.pk, mine["id"]).status_code == 201
    links = bob.get(f"/v1/attachments/{mine['id']}").json()
    assert carol.get(f"/v1/attachments/{mine['id']}").status_code == 404
    Membership.objects.create(conversation=group, user=carol.user, joined_seq=1, joined_rev=3)
    assert carol.get(f"/v1/attachments/{mine['id']}").status_code == 404
    assert fetched(links["url"]).status_code == 200
    # The address is judged when it is used.
    Membership.objects.filter(user=bob.user, conversation=group).update(active=False)
    assert bob.get(f"/v1/attachments/{mine['id']}").status_code == 404
    assert fetched(links["url"]).status_code == 404
    own = alice.get(f"/v1/attachments/{mine['id']}").json()
    type(alice.user).objects.filter(pk=alice.user.pk).update(suspended_until=clock.now().replace(year=9000))
    assert fetched(own["url"]).status_code == 404
    type(alice.user).objects.filter(pk=alice.user.pk).update(suspended_until=None)
    Message.objects.update(deleted_at=clock.now(), body=None)
    assert fetched(own["url"]).status_code == 404
    Message.objects.update(deleted_at=None, body="again")
    assert fetched(own["url"]).status_code == 200
    Conversation.objects.update(purged_seq=1)
    assert fetched(own["url"]).status_code == 404


def test_addresses_are_short_lived_and_cannot_be_forged(
    world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, _, _ = talk(world)
    mine, other = uploaded(alice), uploaded(alice)
    path, _, ticket = path_of(mine["url"]).partition("?ticket=")
    client = APIClient()
    for forged in ("", "x", ticket[:-1], ticket + "x", signing.dumps([UUID(mine["id"]).hex, "content", "0" * 32]),
                   path_of(other["url"]).partition("?ticket=")[2],
                   path_of(mine["thumbnail_url"]).partition("?ticket=")[2]):  # fmt: skip
        response = client.get(path, {"ticket": forged})
        assert (response.status_code, response.json()["code"]) == (404, "not_found"), forged
    assert client.get(path).status_code == 404
    later = time.time() + settings.CHATBE_ATTACHMENT_LINK_LIFETIME + 2
    monkeypatch.setattr(time, "time", lambda: later)
    response = fetched(mine["url"])
    assert (response.status_code, response.json()["code"]) == (403, "expired")


def test_ranges(world: World) -> None:
    alice, _, _ = talk(world)
    mine = uploaded(alice, b"0123456789", "a.txt")
    for asked, status, content, answered in (
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=5-99", 206, b"56789", "bytes 5-9/10"),
        ("bytes=0-", 200, b"0123456789", None),
        ("bytes=-99", 200, b"0123456789", None),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=4-2", 200, b"0123456789", None),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
    ):
        response = fetched(mine["url"], range=asked)
        assert (response.status_code, response.content) == (status, content), asked
        assert response.get("Content-Range") == answered, asked


def test_addresses_of_many_files_take_one_request_and_few_queries(world: World) -> None:
    alice, bob, key = talk(world)
    ids = [uploaded(alice, b"text", f"{number}.txt")["id"] for number in range(6)]
    assert send(alice, key, *ids[:5]).status_code == 201
    counts = set()
    for asked in (ids[:1], ids):
        with CaptureQueriesContext(connection) as queries:
            response = bob.get("/v1/attachments", id=[*asked, str(uuid4())])
        counts.add(len(queries))
        assert [links["id"] for links in response.json()["results"]] == asked[:5]
    assert len(counts) == 1
    for bad in ([], ["x"], [str(uuid4()) for _ in range(101)]):
        assert bob.get("/v1/attachments", id=bad).status_code == 400


def test_an_unsent_upload_can_be_taken_back(
    world: World, kept: Kept, django_capture_on_commit_callbacks: Any
) -> None:
    alice, bob, key = talk(world)
    mine, sent = uploaded(alice), uploaded(alice)
    assert send(alice, key, sent["id"]).status_code == 201
    path = f"/v1/attachments/{mine['id']}"
    with django_capture_on_commit_callbacks(execute=True):
        assert bob.http.delete(path).status_code == 404
        assert alice.http.delete(path).status_code == 204
        assert alice.http.delete(path).status_code == 404
        assert alice.http.delete(f"/v1/attachments/{sent['id']}").status_code == 409
    assert len(kept()) == 2
    assert [row.pk for row in Attachment.objects.all()] == [UUID(sent["id"])]


# --- sending ------------------------------------------------------------------------------------------------


def test_a_message_needs_a_text_or_attachments(world: World) -> None:
    alice, _, key = talk(world)
    mine = uploaded(alice)
    for ids, body in (((), ""),):
        response = send(alice, key, *ids, body=body)
        assert response.status_code == 400
        assert [error["field"] for error in response.json()["errors"]] == ["body"]
    response = send(alice, key, mine["id"], body="")
    assert response.status_code == 201
    assert response.json()["body"] == ""


def test_attachments_that_cannot_be_sent(world: World) -> None:
    alice, bob, key = talk(world)
    mine, theirs, used = uploaded(alice), uploaded(bob), uploaded(alice)
    assert send(alice, key, used["id"]).status_code == 201
    before = Message.objects.count()
    for ids, status, code in (
        ([str(uuid4())], 404, "not_found"),
        ([theirs["id"]], 404, "not_found"),
        ([mine["id"], theirs["id"]], 404, "not_found"),
        ([used["id"]], 409, "conflict"),
        ([mine["id"], mine["id"]], 400, "invalid"),
        (["x"], 400, "invalid"),
        ([str(uuid4())] * 11, 400, "invalid"),
    ):
        response = send(alice, key, *ids)
        assert (response.status_code, response.json()["code"]) == (status, code), ids
    assert Message.objects.count() == before
    assert send(alice, key, mine["id"]).status_code == 201


def test_a_repeat_gives_the_first_message_with_its_files(world: World) -> None:
    alice, bob, key = talk(world)
    mine, other = uploaded(alice), uploaded(alice)
    client_id = str(uuid4())
    first = send(alice, key, mine["id"], client_id=client_id)
    again = send(alice, key, mine["id"], client_id=client_id)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    # With other files it is a repeat all the same; those stay free.
    changed = send(alice, key, other["id"], client_id=client_id)
    assert (changed.status_code, changed.json()) == (200, first.json())
    assert bob.get(f"/v1/attachments/{mine['id']}").status_code == 200
    assert Attachment.objects.get(pk=other["id"]).message is None
    assert send(alice, key, other["id"]).status_code == 201


def test_a_refused_message_sets_its_files_free(world: World) -> None:
    alice, bob, key = talk(world)
    mine = uploaded(alice)
    bob.put("/v1/blocks/alice")
    assert send(alice, key, mine["id"]).json()["code"] == "blocked"
    assert Attachment.objects.get().message is None
    bob.http.delete("/v1/blocks/alice")
    assert send(alice, key, mine["id"]).status_code == 201


def test_files_go_with_their_message(
    world: World, kept: Kept, django_capture_on_commit_callbacks: Any
) -> None:
    alice, bob, key = talk(world)
    mine = uploaded(alice)
    sent = send(alice, key, mine["id"]).json()
    links = bob.get(f"/v1/attachments/{mine['id']}").json()
    with django_capture_on_commit_callbacks(execute=True):
        messaging.messages_removed([UUID(sent["id"])])
        assert fetched(links["url"]).status_code == 404
        assert len(kept()) == 2
    assert (kept(), Attachment.objects.count()) == ([], 0)
    assert selectors.used(user_id=alice.user.pk) == 0


@pytest.mark.parametrize("by", ["sender", "admin"])
def test_files_go_when_their_message_is_deleted_for_everyone(
    world: World, kept: Kept, by: str, django_capture_on_commit_callbacks: Any
) -> None:
    alice, bob, _ = world.friends("alice", "bob", "carol")
    key = groups.group_create(owner=alice.user, title="Group", usernames=["bob", "carol"]).pk
    mine, other = uploaded(bob), uploaded(bob, b"text", "a.txt")
    client_id = str(uuid4())
    sent = send(bob, key, mine["id"], other["id"], body="for @carol", client_id=client_id).json()
    assert [each["id"] for each in sent["attachments"]] == [mine["id"], other["id"]]
    assert sent["mentions"] == ["carol"]
    links = alice.get(f"/v1/attachments/{mine['id']}").json()
    path = f"/v1/conversations/{key}/messages/{sent['seq']}"
    # An edit leaves them as they are.
    edited = bob.patch(path, body="for nobody").json()
    assert (edited["attachments"], edited["body"]) == (sent["attachments"], "for nobody")
    with django_capture_on_commit_callbacks(execute=True):
        assert (bob if by == "sender" else alice).http.delete(path).status_code == 204
    assert (kept(), Attachment.objects.count()) == ([], 0)
    assert fetched(links["url"]).status_code == 404
    assert selectors.used(user_id=bob.user.pk) == 0
    (tombstone,) = alice.get(f"/v1/conversations/{key}/messages").json()["results"]
    assert (tombstone["body"], tombstone["attachments"]) == (None, [])
    assert Message.objects.get().attachments is None
    consistent(key)
    # A retry of the send that comes late is the same send still.
    late = send(bob, key, mine["id"], other["id"], body="for @carol", client_id=client_id)
    assert (late.status_code, late.json()) == (200, tombstone)
    assert send(bob, key, mine["id"]).status_code == 404


def test_files_go_with_a_group_that_is_dissolved(
    world: World, kept: Kept, django_capture_on_commit_callbacks: Any
) -> None:
    alice, bob = world.friends("alice", "bob")
    key = groups.group_create(owner=alice.user, title="Group", usernames=["bob"]).pk
    elsewhere = UUID(world.say(bob, "alice", "hello")[0].conversation)
    mine, stays = uploaded(bob), uploaded(bob, b"text", "a.txt")
    assert send(bob, key, mine["id"]).status_code == 201
    assert send(bob, elsewhere, stays["id"]).status_code == 201
    with django_capture_on_commit_callbacks(execute=True):
        assert alice.http.delete(f"/v1/conversations/{key}").status_code == 204
    assert kept() == [Attachment.objects.get().path]
    assert selectors.used(user_id=bob.user.pk) == len(b"text")
    assert list(Message.objects.filter(attachments__isnull=False).values_list("conversation", flat=True)) == [
        elsewhere
    ]
    assert bob.get(f"/v1/attachments/{stays['id']}").status_code == 200


def test_who_joins_later_fetches_what_the_group_lets_them_see(world: World) -> None:
    alice, bob, carol = world.friends("alice", "bob", "carol")
    key = groups.group_create(owner=alice.user, title="Group", usernames=[]).pk
    before, after = uploaded(alice), uploaded(alice)
    assert send(alice, key, before["id"]).status_code == 201
    groups.members_add(actor=alice.user, conversation=key, usernames=["bob"])
    groups.group_update(actor=alice.user, conversation=key, history="all")
    groups.members_add(actor=alice.user, conversation=key, usernames=["carol"])
    assert send(alice, key, after["id"]).status_code == 201

    def may_fetch(device: Device) -> list[bool]:
        return [device.get(f"/v1/attachments/{each['id']}").status_code == 200 for each in (before, after)]

    assert (may_fetch(alice), may_fetch(bob), may_fetch(carol)) == ([True, True], [False, True], [True, True])
    groups.member_remove(actor=alice.user, conversation=key, username="carol")
    assert may_fetch(carol) == [False, False]
    groups.group_update(actor=alice.user, conversation=key, history="joined")
    groups.members_add(actor=alice.user, conversation=key, usernames=["carol"])
    assert may_fetch(carol) == [False, False]


def test_an_erased_account_leaves_its_sent_files_and_no_others(
    world: World, kept: Kept, django_capture_on_commit_callbacks: Any
) -> None:
    from accounts import services as accounts

    alice, bob, key = talk(world)
    mine, _unsent = uploaded(alice), uploaded(alice)
    send(alice, key, mine["id"])
    export = alice.get("/v1/me/export").json()
    assert [each["id"] for each in export["attachments"]] == [mine["id"], _unsent["id"]]
    with django_capture_on_commit_callbacks(execute=True):
        accounts.user_erase(user_id=alice.user.pk)
    assert len(kept()) == 2
    assert fetched(bob.get(f"/v1/attachments/{mine['id']}").json()["url"]).status_code == 200


def test_the_folder_is_for_its_owner_only(world: World) -> None:
    alice, _, _ = talk(world)
    uploaded(alice)
    row = Attachment.objects.get()
    path = Path(services.storage().path(row.path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
