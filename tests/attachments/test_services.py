"""What is left over is swept, what is in use never, whatever died in between."""

from __future__ import annotations

import threading
from datetime import timedelta
from io import BytesIO, StringIO
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command
from django.db import connection

from accounts.models import User
from attachments import services
from attachments.errors import OverQuota
from attachments.models import Attachment
from chatbe.core import clock
from chatbe.core.errors import Conflict
from messaging import services as messaging
from messaging.models import Message
from tests.attachments.conftest import Kept, World

pytestmark = pytest.mark.usefixtures("fanned_out")


def upload(user: User, text: bytes = b"hello") -> Attachment:
    return services.attachment_upload(user=user, file=BytesIO(text), size=len(text), name="a.txt")


def age(**fields: Any) -> None:
    Attachment.objects.update(**{name: clock.now() - hours for name, hours in fields.items()})


@pytest.mark.django_db
def test_what_nobody_sent_is_swept(world: World, kept: Kept) -> None:
    alice, _ = world.friends("alice", "bob")
    unsent, sent = upload(alice.user), upload(alice.user)
    messaging.message_send(sender=alice.user, username="bob", body="", attachments=[sent.pk])
    assert services.sweep() == 0
    age(created_at=timedelta(hours=25), claimed_at=timedelta(hours=25))
    out = StringIO()
    call_command("sweep", stdout=out)
    assert out.getvalue() == "1 rows and files deleted.\n"
    assert kept() == [sent.path]
    assert not Attachment.objects.filter(pk=unsent.pk).exists()
    out = StringIO()
    call_command("attachments", "--sweep", "--check", stdout=out, verbosity=0)
    assert out.getvalue() == "0 attachments deleted.\n1 attachments, 5 bytes.\n"
    services.storage().delete(sent.path)
    out = StringIO()
    call_command("attachments", "--check", stdout=out, verbosity=0)
    assert f"missing: {sent.pk}" in out.getvalue()


@pytest.mark.django_db
def test_an_upload_that_died_half_way_is_swept(
    world: World, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alice,) = world.friends("alice")
    with monkeypatch.context() as patch:
        # As if the process had been killed: nothing after the file is done.
        patch.setattr(services, "_remove", lambda _rows: 0)
        patch.setattr(Attachment, "save", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(
            Attachment.objects,
            "create",
            lambda **fields: Attachment.objects.bulk_create([Attachment(**fields)])[0],
        )
        with pytest.raises(KeyboardInterrupt):
            upload(alice.user)
    assert len(kept()) == 1
    assert services.sweep() == 0
    age(created_at=timedelta(hours=25))
    assert services.sweep() == 1
    assert (kept(), Attachment.objects.count()) == ([], 0)


@pytest.mark.django_db
def test_files_that_cannot_be_deleted_are_tried_again(
    world: World, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alice,) = world.friends("alice")
    upload(alice.user)
    age(created_at=timedelta(hours=25))
    with monkeypatch.context() as patch:
        patch.setattr(services.storage(), "delete", lambda _path: (_ for _ in ()).throw(OSError("read-only")))
        assert services.sweep() == 0
    assert len(kept()) == 1
    assert services.sweep() == 1
    assert kept() == []


@pytest.mark.django_db
def test_a_send_that_died_between_commit_and_answer_keeps_its_files(world: World, kept: Kept) -> None:
    alice, _ = world.friends("alice", "bob")
    row = upload(alice.user)
    client_id = uuid4()
    sent = messaging.message_send(
        sender=alice.user, username="bob", client_id=client_id, body="", attachments=[row.pk]
    )
    # A retry claimed it for another message, and its process was killed before the verdict.
    Attachment.objects.update(message=uuid4())
    age(created_at=timedelta(hours=25), claimed_at=timedelta(hours=2))
    assert services.sweep() == 0
    assert Attachment.objects.get().message == UUID(sent.message.id)
    assert len(kept()) == 1
    # And with a message that never came to be, they go.
    Message.objects.all().delete()
    age(claimed_at=timedelta(hours=2))
    assert services.sweep() == 1
    assert kept() == []


def together(*actions: Any) -> list[Any]:
    """What each of several threads, let go at one moment, returns or raises."""
    results: list[Any] = [None] * len(actions)
    start = threading.Barrier(len(actions))

    def run(index: int) -> None:
        start.wait()
        try:
            results[index] = actions[index]()
        except Exception as error:  # noqa: BLE001 - it is the result
            results[index] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.django_db(transaction=True)
def test_two_sends_cannot_have_the_same_file(world: World) -> None:
    alice, _ = world.friends("alice", "bob")
    messaging.conversation_direct(user=alice.user, username="bob")
    row = upload(alice.user)

    def send() -> Any:
        return messaging.message_send(sender=alice.user, username="bob", body="x", attachments=[row.pk])

    results = together(send, send, send)
    assert sum(isinstance(result, Conflict) for result in results) == 2
    (message,) = Message.objects.all()
    assert Attachment.objects.get().message == message.pk


@pytest.mark.django_db(transaction=True)
def test_the_same_send_at_the_same_moment_keeps_its_files(world: World) -> None:
    alice, _ = world.friends("alice", "bob")
    messaging.conversation_direct(user=alice.user, username="bob")
    row, client_id = upload(alice.user), uuid4()

    def send() -> Any:
        return messaging.message_send(
            sender=alice.user, username="bob", client_id=client_id, body="x", attachments=[row.pk]
        )

    results = together(send, send, send)
    assert sorted(result.duplicate for result in results) == [False, True, True]
    (message,) = Message.objects.all()
    assert {result.message.id for result in results} == {str(message.pk)}
    assert Attachment.objects.get().message == message.pk


@pytest.mark.django_db(transaction=True)
def test_uploads_at_the_same_moment_are_not_over_the_quota(world: World, kept: Kept, settings: Any) -> None:
    (alice,) = world.friends("alice")
    settings.CHATBE_ATTACHMENT_QUOTA = 2500
    results = together(*[lambda: upload(alice.user, b"x" * 1000)] * 4)
    assert sum(isinstance(result, OverQuota) for result in results) == 2
    assert len(kept()) == Attachment.objects.count() == 2
