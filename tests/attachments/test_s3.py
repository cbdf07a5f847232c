"""Files in a bucket: a small server speaks as much of S3 as is used."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from django.conf import settings as live
from rest_framework.test import APIClient

from attachments import services
from attachments.models import Attachment
from messaging import services as messaging
from tests.attachments.conftest import World
from tests.attachments.test_api import PICTURE, path_of, uploaded

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fanned_out")]


class Bucket(ThreadingHTTPServer):
    """Keeps objects by their paths."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Bucket
    protocol_version = "HTTP/1.1"

    def _path(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get(
            "Transfer-Encoding", ""
        ) and "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return self.rfile.read(int(self.headers["Content-Length"]))
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return data

    def do_PUT(self) -> None:
        self.server.objects[self._path()] = self._body()
        self._answer(200)

    def do_GET(self) -> None:
        self.do_HEAD()

    def do_HEAD(self) -> None:
        found = self.server.objects.get(self._path())
        self._answer(404 if found is None else 200, found or b"")

    def do_DELETE(self) -> None:
        self.server.objects.pop(self._path(), None)
        self._answer(204)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Quiet."""


@pytest.fixture
def bucket(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for name, value in (("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(name, value)
    with Bucket() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = {
            "bucket_name": "files", "endpoint_url": server.url, "region_name": "eu-central-1", "location": "",
            "default_acl": None, "file_overwrite": False, "querystring_auth": True, "signature_version": "s3v4",
            "addressing_style": "path",
        }  # fmt: skip
        settings.STORAGES = {
            **live.STORAGES, "attachments": {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
        }  # fmt: skip
        settings.CHATBE_ATTACHMENT_STORAGE = "s3"
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def _fresh_limits() -> None:
    """The bucket goes with the test."""


def test_files_are_kept_in_a_bucket_and_fetched_by_its_addresses(
    world: World, bucket: Bucket, django_capture_on_commit_callbacks: Any
) -> None:
    alice, _ = world.friends("alice", "bob")
    mine = uploaded(alice, PICTURE, "söme river.png")
    row = Attachment.objects.get()
    assert sorted(bucket.objects) == sorted([f"/files/{row.path}", f"/files/{row.thumbnail_path}"])
    assert len(bucket.objects[f"/files/{row.path}"]) == mine["size"]
    for address, path, content_type in (
        (mine["url"], row.path, "image/png"),
        (mine["thumbnail_url"], row.thumbnail_path, "image/webp"),
    ):
        response = APIClient().get(path_of(address))
        assert response.status_code == 302
        assert response["Cache-Control"] == "no-store"
        target = urlsplit(response["Location"])
        query = parse_qs(target.query)
        assert unquote(target.path) == f"/files/{path}"
        assert query["response-content-type"] == [content_type]
        assert query["response-content-disposition"][0].startswith("attachment")
        assert query["X-Amz-Expires"] == [str(live.CHATBE_ATTACHMENT_LINK_LIFETIME)]
    sent = messaging.message_send(sender=alice.user, username="bob", body="", attachments=[row.pk])
    assert services.storage().exists(row.path)
    with django_capture_on_commit_callbacks(execute=True):
        services.attachments_remove([row.__class__.objects.get().message])  # type: ignore[list-item]  # it is sent
    assert sent.message.attachments
    assert bucket.objects == {}


def started(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What comes of code in a process with these settings."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=live.BASE_DIR,
        env={
            **os.environ, "CHATBE_ENV_FILE": "none", "DJANGO_SETTINGS_MODULE": "chatbe.settings",
            "CHATBE_ATTACHMENT_STORAGE": "s3", **environment,
        },
        check=False,
        capture_output=True,
        text=True,
    )  # fmt: skip


def test_the_settings_name_the_bucket() -> None:
    code = (
        "import django; django.setup(); from attachments.services import storage; s = storage();"
        "print(type(s).__name__, s.bucket_name, s.endpoint_url, s.location, s.addressing_style)"
    )
    result = started(
        code, CHATBE_S3_BUCKET="files", CHATBE_S3_ENDPOINT="http://127.0.0.1:9", CHATBE_S3_PREFIX="chat"
    )
    assert result.stdout == "S3Storage files http://127.0.0.1:9 chat path\n", result.stderr


def test_settings_that_cannot_work_are_told_at_the_start() -> None:
    assert "needs CHATBE_S3_BUCKET" in started("import chatbe.settings").stderr
    # As where it is not installed.
    without = "import sys; sys.modules['storages'] = None; import importlib.util as u; find = u.find_spec;"
    without += "u.find_spec = lambda name: None if name == 'storages' else find(name); import chatbe.settings"
    assert "needs django-storages[s3]" in started(without, CHATBE_S3_BUCKET="files").stderr
    assert "is files or s3" in started("import chatbe.settings", CHATBE_ATTACHMENT_STORAGE="ftp").stderr
