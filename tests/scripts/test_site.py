"""The site of the documents: complete, and nothing in it comes from another host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

pytestmark = pytest.mark.pure


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: make lint installs it")
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=settings.BASE_DIR,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_every_document_has_its_page_and_is_in_the_contents(site: Path) -> None:
    contents = (site / "index.html").read_text()
    for path in (settings.BASE_DIR / "docs").rglob("*.md"):
        name = path.relative_to(settings.BASE_DIR / "docs").with_suffix(".html")
        page = str(name).replace("README.html", "index.html")
        assert (site / page).exists(), page
        assert f'href="{page}"' in contents or page == "index.html", page


def test_a_reader_asks_no_other_host_for_anything(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not re.search(r"<(?:script|img|iframe|source)[^>]+src=[\"']?(?:https?:)?//", text), page
        assert not re.search(
            r"<link[^>]+rel=[\"']?(?:stylesheet|preconnect|icon)[^>]+(?:https?:)?//", text
        ), page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", style.read_text()), style
