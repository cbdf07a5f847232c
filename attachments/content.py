"""What a file is, by its content: neither its name nor what the client says of it counts.

Few kinds are taken, and each has one content type, under which it is served; none of them is one
that a browser would run (HTML, SVG, scripts are served as plain text, or not taken).
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Final

HEAD: Final = 4096
"""So many bytes at the beginning tell the kind."""
MAX_NAME: Final = 255


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of content. `extensions`: those that a name may have; the first is put on others."""

    content_type: str
    extensions: tuple[str, ...]


JPEG: Final = Kind("image/jpeg", ("jpg", "jpeg"))
PNG: Final = Kind("image/png", ("png",))
GIF: Final = Kind("image/gif", ("gif",))
WEBP: Final = Kind("image/webp", ("webp",))
PICTURES: Final = {JPEG: "JPEG", PNG: "PNG", GIF: "GIF", WEBP: "WEBP"}
"""Kinds that are decoded, with Pillow's names for them."""

PDF: Final = Kind("application/pdf", ("pdf",))
ZIP: Final = Kind(
    "application/zip", ("zip", "docx", "xlsx", "pptx", "odt", "ods", "odp", "epub", "key", "numbers", "pages")
)
GZIP: Final = Kind("application/gzip", ("gz", "tgz"))
MP3: Final = Kind("audio/mpeg", ("mp3",))
M4A: Final = Kind("audio/mp4", ("m4a",))
OGG: Final = Kind("audio/ogg", ("ogg", "oga", "opus"))
WAV: Final = Kind("audio/wav", ("wav",))
FLAC: Final = Kind("audio/flac", ("flac",))
MP4: Final = Kind("video/mp4", ("mp4", "m4v"))
QUICKTIME: Final = Kind("video/quicktime", ("mov",))
WEBM: Final = Kind("video/webm", ("webm", "mkv", "weba"))
TEXT: Final = Kind(
    "text/plain; charset=utf-8",
    ("txt", "md", "csv", "tsv", "log", "json", "yaml", "yml", "toml", "ini", "sql", "tex", "diff", "patch"),
)


def _brand(head: bytes) -> Kind | None:
    """ISO base media files (ISO/IEC 14496-12): the brand tells. HEIC and AVIF pictures are not taken, since
    their metadata could not be stripped."""
    brand = head[8:12]
    if brand in {b"M4A ", b"M4B "}:
        return M4A
    if brand == b"qt  ":
        return QUICKTIME
    return None if brand[:3] in {b"hei", b"hev", b"mif", b"msf", b"avi"} else MP4


def _riff(head: bytes) -> Kind | None:
    return {b"WEBP": WEBP, b"WAVE": WAV}.get(head[8:12])


_SIGNATURES: Final[tuple[tuple[int, bytes, Kind | Callable[[bytes], Kind | None]], ...]] = (
    (0, b"\xff\xd8\xff", JPEG),
    (0, b"\x89PNG\r\n\x1a\n", PNG),
    (0, b"GIF87a", GIF),
    (0, b"GIF89a", GIF),
    (0, b"RIFF", _riff),
    (0, b"%PDF-", PDF),
    (0, b"PK\x03\x04", ZIP),
    (0, b"\x1f\x8b\x08", GZIP),
    (0, b"ID3", MP3),
    (0, b"\xff\xfb", MP3),
    (0, b"\xff\xf3", MP3),
    (0, b"OggS", OGG),
    (0, b"fLaC", FLAC),
    (4, b"ftyp", _brand),
    (0, b"\x1a\x45\xdf\xa3", WEBM),
)
# Control characters but for tabs, line breaks, form feeds and escapes (of a coloured log).
_NO_TEXT: Final = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")


def kind_of(file: IO[bytes]) -> Kind | None:
    """The kind of a file's content; None for what is not taken, an empty file too."""
    file.seek(0)
    head = file.read(HEAD)
    for offset, signature, found in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return found if isinstance(found, Kind) else found(head)
    return TEXT if head and _is_text(file) else None


def _is_text(file: IO[bytes]) -> bool:
    """Whether all of it is UTF-8 text."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    file.seek(0)
    try:
        while data := file.read(64 * 1024):
            if _NO_TEXT.search(decoder.decode(data)):
                return False
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def name_for(given: str, kind: Kind) -> str:
    """The name that a file is offered under: what the client gave, without a path, control characters and
    marks that reorder text, and with an extension that says what the content is."""
    name = re.split(r"[/\\]", unicodedata.normalize("NFC", given))[-1]
    # Cc, Cf (bidi controls, zero-width characters), Cs, line and paragraph separators.
    name = "".join(
        character
        for character in name
        if unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    ).strip(" .")
    stem, dot, extension = name.rpartition(".")
    if not dot or extension.lower() not in kind.extensions:
        stem, extension = name, kind.extensions[0]
    return f"{(stem or 'file')[: MAX_NAME - len(extension) - 1]}.{extension}"
