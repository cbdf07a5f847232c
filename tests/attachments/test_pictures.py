"""Pictures are made anew: nothing but pixels is left, and no bomb goes off."""

from __future__ import annotations

import threading
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from attachments import content, pictures
from chatbe.core.errors import ChatError, Invalid, TooLarge, Unavailable
from tests.attachments.conftest import bomb, encoded, gradient

pytestmark = pytest.mark.pure

PIXELS = 50_000_000


def made(data: bytes, *, max_pixels: int = PIXELS) -> pictures.Picture:
    kind = content.kind_of(BytesIO(data))
    assert kind in content.PICTURES
    return pictures.picture(BytesIO(data), kind, max_pixels=max_pixels)


def opened(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(data))
    image.load()
    return image


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010F] = "SecretCamera"
    tags.get_ifd(0x8825)[1] = "N"
    return tags


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "WEBP"])
def test_metadata_are_stripped(format_: str) -> None:
    image = gradient()
    options: dict[str, Any] = {"comment": b"SecretComment"}
    if format_ != "GIF":
        options = {
            "exif": exif(1),
            "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        }
    if format_ == "PNG":
        info = PngInfo()
        info.add_text("Author", "SecretAuthor")
        options["pnginfo"] = info
    data = encoded(image, format_, **options) + b"SecretTail"
    assert b"Secret" in data
    picture = made(data)
    assert (picture.width, picture.height) == image.size
    for result in (picture.data, picture.thumbnail):
        assert b"Secret" not in result
        anew = opened(result)
        assert not anew.getexif()
        assert "icc_profile" not in anew.info
        assert "comment" not in anew.info
    assert opened(picture.data).format == format_


def test_a_picture_is_turned_upright() -> None:
    picture = made(encoded(gradient((400, 200)), "JPEG", exif=exif(6)))
    assert (picture.width, picture.height) == (200, 400)
    assert opened(picture.thumbnail).size == (160, 320)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_mode_of_pixels(mode: str) -> None:
    image = gradient((500, 100)).convert(
        "L" if mode == "I;16" else "RGBA" if mode in {"LA", "RGBA"} else "RGB"
    )
    image = image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)
    picture = made(encoded(image, "JPEG" if mode == "CMYK" else "PNG"))
    assert (picture.width, picture.height) == (500, 100)
    assert opened(picture.thumbnail).size == (320, 64)


def test_transparency_is_kept() -> None:
    image = Image.new("RGBA", (50, 50), (255, 0, 0, 0))
    picture = made(encoded(image, "PNG"))
    for data in (picture.data, picture.thumbnail):
        assert opened(data).convert("RGBA").getpixel((25, 25))[3] == 0  # type: ignore[index]  # of four bands


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_kept(format_: str) -> None:
    frames = [Image.new("RGB", (60, 40), (40 * index, 0, 0)) for index in range(5)]
    data = encoded(frames[0], format_, save_all=True, append_images=frames[1:], duration=120, loop=0)
    anew = Image.open(BytesIO(made(data).data))
    assert getattr(anew, "n_frames", 1) == 5
    anew.seek(3)
    assert anew.convert("RGB").getpixel((5, 5))[0] == pytest.approx(120, abs=12)  # type: ignore[index]  # of three bands
    with pytest.raises(TooLarge):
        made(data, max_pixels=60 * 40 * 4)


def test_a_bomb_is_too_large_and_is_not_decoded() -> None:
    data = bomb()
    assert len(data) < 100_000
    with pytest.raises(TooLarge):
        made(data)
    with pytest.raises(TooLarge):
        made(encoded(gradient((200, 200)), "PNG"), max_pixels=39_999)
    assert made(encoded(gradient((200, 200)), "PNG"), max_pixels=40_000).width == 200


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "WEBP"])
def test_what_is_cut_off_is_damaged(format_: str) -> None:
    data = encoded(gradient(), format_)
    for part in (len(data) // 2, 30, len(data) * 9 // 10):
        with pytest.raises(Invalid):
            made(data[:part])


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "WEBP"])
def test_no_bytes_are_a_fault(format_: str) -> None:
    data = encoded(gradient((64, 64)), format_)

    @given(st.integers(12, len(data) - 1), st.binary(min_size=1, max_size=16))
    def corrupted(at: int, other: bytes) -> None:
        try:
            made(data[:at] + other + data[at + len(other) :])
        except ChatError:
            return

    corrupted()


def test_a_picture_of_another_kind_is_not_decoded() -> None:
    with pytest.raises(Invalid):
        pictures.picture(BytesIO(encoded(gradient(), "PNG")), content.JPEG, max_pixels=PIXELS)


def test_few_are_decoded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = threading.BoundedSemaphore(1)
    monkeypatch.setattr(pictures, "_TURNS", turns)
    monkeypatch.setattr(pictures, "PATIENCE", 0.01)
    data = encoded(gradient(), "PNG")
    with turns, pytest.raises(Unavailable):
        made(data)
    assert made(data).width == 640
