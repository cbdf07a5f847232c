"""Files to upload, and what the storage holds."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage
from PIL import Image

from attachments import services
from attachments.api.views import LinkThrottle, UploadThrottle
from messaging.api.views import SendThrottle
from tests.messaging.conftest import World, fanned_out, world

__all__ = ["World", "fanned_out", "world"]

Kept = Callable[[], list[str]]


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    """A picture's file."""
    file = BytesIO()
    image.save(file, format=format_, **options)
    return file.getvalue()


def gradient(size: tuple[int, int] = (640, 480), mode: str = "RGB") -> Image.Image:
    """A picture that is the same nowhere."""
    return Image.linear_gradient("L").resize(size).convert(mode)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))


def bomb(side: int = 30_000) -> bytes:
    """A small PNG that says to be huge."""
    packer = zlib.compressobj(9)
    row = packer.compress(b"\0" * 10_000_000) + packer.flush()
    header = pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b"")


@pytest.fixture(autouse=True)
def _fresh_limits() -> Iterator[None]:
    for throttle in (UploadThrottle, LinkThrottle, SendThrottle):
        throttle._buckets.clear()
    yield
    store = services.storage()
    assert isinstance(store, FileSystemStorage)
    for path in Path(store.location).rglob("*"):
        if path.is_file():
            path.unlink()


@pytest.fixture
def kept() -> Kept:
    """Tells the names of the files that are in the storage."""

    def names() -> list[str]:
        store = services.storage()
        assert isinstance(store, FileSystemStorage)
        root = Path(store.location)
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    return names
