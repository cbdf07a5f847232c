"""Text in a grid of cells: what is shown of it, how wide it is, and where it breaks."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from prompt_toolkit.utils import get_cwidth

_JOINERS = "\u200c\u200d"
"""Formatting characters that belong to writing: emoji and some scripts are joined by them."""


def shown(text: str) -> str:
    """A text as it may stand on the screen: nothing in it moves the cursor, or reorders or hides what is beside it."""
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character == "\t":
        return "    "
    if character == "\n" or character in _JOINERS:
        return character
    kind = unicodedata.category(character)
    if kind == "Cf":
        return ""
    return "\ufffd" if kind in ("Cc", "Cs", "Zl", "Zp") else character


def wrap(text: str, width: int) -> Iterator[str]:
    """Its lines, none wider than `width` cells: broken at blanks, or within words that are too long."""
    for line in text.split("\n"):
        yield from _wrap_line(line, max(2, width))


def _wrap_line(line: str, width: int) -> Iterator[str]:
    start, last_blank, cells, blank_cells = 0, -1, 0, 0
    for index, character in enumerate(line):
        cells += get_cwidth(character)
        if character == " ":
            last_blank, blank_cells = index, cells
        if cells <= width:
            continue
        if character == " ":
            # It hangs over the edge, where nobody sees it.
            continue
        if last_blank > start:
            yield line[start:last_blank]
            start, cells = last_blank + 1, cells - blank_cells
        else:
            yield line[start:index]
            start, cells = index, get_cwidth(character)
        last_blank, blank_cells = -1, 0
    yield line[start:]


def fit(text: str, width: int) -> str:
    """Exactly so many cells of a line: cut with an ellipsis, or filled with blanks."""
    text = text.replace("\n", " ")
    if get_cwidth(text) > width:
        cut, cells = "", 0
        for character in text:
            if cells + get_cwidth(character) > width - 1:
                break
            cut, cells = cut + character, cells + get_cwidth(character)
        text = f"{cut}…" if width > 0 else ""
    return text + " " * (width - get_cwidth(text))
