"""Pictures, decoded and made anew: nothing of the upload but its pixels is kept.

So metadata (places, cameras, comments, previews of what was cut away) are gone, as is whatever is
hidden in a file that is a picture and something else at once. What a decoder would make of few
bytes is bounded before any pixel is decoded.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any, Final

from PIL import Image, ImageCms, ImageOps

from attachments.content import GIF, JPEG, PICTURES, PNG, Kind
from chatbe.core.errors import FieldError, Invalid, TooLarge, Unavailable

THUMBNAIL: Final = (320, 320)
"""Pixels of a thumbnail at most; it is WebP."""
MAX_FRAMES: Final = 500
JPEG_QUALITY: Final = 88
WEBP_QUALITY: Final = 85
PATIENCE: Final = 10.0
"""Seconds that an upload waits for its turn to be decoded."""

# A decoded picture takes some hundred megabytes at most; so many at a time.
_TURNS: Final = threading.BoundedSemaphore(2)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture made anew."""

    data: bytes
    width: int
    height: int
    thumbnail: bytes


def picture(file: IO[bytes], kind: Kind, *, max_pixels: int) -> Picture:
    """Decode and make anew, with all its frames, upright, in sRGB. `max_pixels` counts over all frames.

    Raises `TooLarge` for more pixels or frames, `Invalid` for what cannot be decoded to its end, and
    `Unavailable` when too many wait.
    """
    if not _TURNS.acquire(timeout=PATIENCE):
        raise Unavailable("Too many pictures are being uploaded.", retry_after=PATIENCE)
    try:
        with _strict():
            return _picture(file, kind, max_pixels)
    finally:
        _TURNS.release()


@contextmanager
def _strict() -> Iterator[None]:
    """Any failure of a decoder, and its doubts, as `Invalid`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooLarge("The picture has too many pixels.") from None
    except (TooLarge, Unavailable):
        raise
    except Exception as error:
        # Decoders fail in many ways on what is malformed, and none of them is ours to know.
        raise Invalid(
            "The picture is damaged.",
            errors=(FieldError("file", "damaged", "It cannot be decoded to its end."),),
        ) from error


def _picture(file: IO[bytes], kind: Kind, max_pixels: int) -> Picture:
    file.seek(0)
    # This kind's decoder alone, whatever else would claim the bytes.
    with Image.open(file, formats=[PICTURES[kind]]) as image:
        frames, durations = _frames(image, max_pixels, animated=kind is not JPEG)
        loop = image.info.get("loop")
    first = frames[0]
    options: dict[str, Any] = {"format": PICTURES[kind]}
    if len(frames) > 1:
        options |= {"save_all": True, "append_images": frames[1:], "duration": durations}
        options |= {} if loop is None else {"loop": loop}
        if kind in {GIF, PNG}:
            options["disposal"] = 2 if kind is GIF else 0
    if kind is JPEG:
        options["quality"] = JPEG_QUALITY
    elif kind is not GIF and kind is not PNG:
        options |= {"quality": WEBP_QUALITY, "method": 2}
    data = BytesIO()
    first.save(data, **options)
    width, height = first.size
    small = first.convert("RGBA" if first.mode in {"RGBA", "LA", "PA"} else "RGB")
    small.thumbnail(THUMBNAIL)
    thumbnail = BytesIO()
    small.save(thumbnail, format="WEBP", quality=75, method=2)
    return Picture(data.getvalue(), width, height, thumbnail.getvalue())


def _frames(image: Image.Image, max_pixels: int, *, animated: bool) -> tuple[list[Image.Image], list[int]]:
    """Every frame, without anything beside its pixels, and how long each is shown, in milliseconds."""
    frames: list[Image.Image] = []
    durations: list[int] = []
    pixels = image.width * image.height
    if not pixels:
        raise Invalid
    while True:
        if len(frames) == MAX_FRAMES or pixels * (len(frames) + 1) > max_pixels:
            raise TooLarge("The picture has too many pixels.")
        image.load()
        durations.append(int(image.info.get("duration") or 0))
        frames.append(_plain(image))
        if not animated:
            return frames, durations
        try:
            image.seek(len(frames))
        except EOFError:
            return frames, durations


def _plain(image: Image.Image) -> Image.Image:
    """The pixels of the present frame, upright and in sRGB."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):
        # Sixteen bits of grey.
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    transparent = "transparency" in image.info or image.mode in {"RGBA", "LA", "PA"}
    upright = ImageOps.exif_transpose(image)
    wanted = "RGBA" if transparent else "L" if upright.mode in {"1", "L"} else "RGB"
    if profile and upright.mode in {"RGB", "RGBA", "CMYK", "L"}:
        plain = _to_srgb(upright, profile, wanted)
    else:
        plain = upright.convert(wanted)
    plain = plain.copy()
    plain.info = {}
    return plain


def _to_srgb(image: Image.Image, profile: bytes, wanted: str) -> Image.Image:
    """By the picture's own colour profile; one that makes no sense is left out."""
    if image.mode == "RGBA" or wanted == "RGBA":
        alpha = image.convert("RGBA").getchannel("A")
        plain = _to_srgb(image.convert("RGB"), profile, "RGB")
        plain.putalpha(alpha)
        return plain
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        converted = None
    return (converted or image).convert(wanted)
