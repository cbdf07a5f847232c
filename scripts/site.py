"""For mkdocs: every document has its place in the site, and what it links to outside docs/ stands as a path."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)#\s]+)(?:#[^)\s]*)?\)")

_CHAPTERS = {
    "Use it": ("quickstart.md", "clients.md", "protocol.md", "http.md"),
    "Run it": ("operations.md", "performance.md", "faults.md"),
    "How it works": ("architecture.md",),
}
"""The order of what there is always; every other document is told of in the last one."""


def on_config(config: Any) -> Any:
    """The table of contents, for mkdocs' event of this name."""
    folder = Path(config["docs_dir"])
    named = {"index.md", *(name for names in _CHAPTERS.values() for name in names)}
    others = sorted(path.name for path in folder.glob("*.md") if path.name not in named)
    decisions = sorted(f"adr/{path.name}" for path in folder.glob("adr/[0-9]*.md"))
    nav: list[Any] = ["index.md"]
    nav += [{chapter: list(names)} for chapter, names in _CHAPTERS.items()]
    nav[-1]["How it works"] += others
    config["nav"] = [*nav, {"Decisions": ["adr/README.md", *decisions]}]
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page's text, for mkdocs' event of this name."""
    here = posixpath.dirname(page.file.src_uri)

    def replaced(match: re.Match[str]) -> str:
        target = match["target"]
        if "://" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join("docs", here, target))
        if path == "docs" or path.startswith("docs/"):
            return match[0]
        text = match["text"].strip("`")
        return f"`{path}`" if text.rstrip("/") in path else f"{match['text']} (`{path}`)"

    return _LINK.sub(replaced, markdown)
