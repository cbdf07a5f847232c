"""Generated documents are what the code says, and a drift is noticed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from pytest_django import Settings

from chatbe import generated

pytestmark = pytest.mark.pure


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A project folder whose documents may be changed."""
    for name in (
        ".env.example",
        "chatbe/settings.py",
        "docs/asyncapi.json",
        "docs/openapi.yaml",
        "docs/protocol.md",
        "docs/http.md",
        "docs/operations.md",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(settings.BASE_DIR / name, tmp_path / name)
    generated.write(tmp_path)
    return tmp_path


def test_the_documents_are_up_to_date() -> None:
    call_command("docs", "--check")


def test_the_documents_do_not_depend_on_the_order_of_hashes() -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "7", "CHATBE_ENV_FILE": "none"}
    subprocess.run(
        [sys.executable, "manage.py", "docs", "--check"],
        cwd=settings.BASE_DIR,
        env=environment,
        check=True,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("name", ["docs/asyncapi.json", "docs/openapi.yaml"])
def test_a_changed_document_is_named_and_mended(copy: Path, name: str, settings: Settings) -> None:
    settings.BASE_DIR = copy
    before = (copy / name).read_text()
    (copy / name).write_text(before.replace("conversation", "room"))
    with pytest.raises(
        CommandError, match=rf"{name} is no longer what the code says\. Run: make docs-generate"
    ):
        call_command("docs", "--check")
    call_command("docs")
    assert (copy / name).read_text() == before


def test_a_changed_table_is_noticed_and_hand_written_text_is_kept(copy: Path) -> None:
    path = copy / "docs/protocol.md"
    text = path.read_text()
    path.write_text(text.replace("| `body` | string |", "| `text` | string |") + "\nA new sentence.\n")
    assert generated.drifted(copy) == ["docs/protocol.md"]
    generated.write(copy)
    assert path.read_text() == text + "\nA new sentence.\n"
    assert generated.drifted(copy) == []


def test_a_missing_document_is_noticed(copy: Path) -> None:
    (copy / "docs/openapi.yaml").unlink()
    assert generated.drifted(copy) == ["docs/openapi.yaml"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "#CHATBE_LOG_LEVEL=INFO",
            "",
            "CHATBE_LOG_LEVEL is read in chatbe/settings.py and missing in .env.example.",
        ),
        (
            "#CHATBE_LOG_LEVEL=INFO",
            "#CHATBE_LOG_LEVEL=INFO\n# More.\n#CHATBE_MORE=1",
            "CHATBE_MORE is in .env.example and read nowhere in chatbe/settings.py.",
        ),
        (
            "#CHATBE_OTP_LIFETIME=60",
            "#CHATBE_OTP_LIFETIME=61",
            "CHATBE_OTP_LIFETIME is 61 in .env.example and 60 in chatbe/settings.py.",
        ),
        (
            "#CHATBE_LOG_LEVEL=INFO",
            "\n#CHATBE_LOG_LEVEL=INFO",
            "CHATBE_LOG_LEVEL has no explanation above it in .env.example.",
        ),
    ],
)
def test_a_setting_that_is_not_explained_is_named(copy: Path, old: str, new: str, problem: str) -> None:
    path = copy / ".env.example"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert list(generated.settings_problems(copy)) == [problem]


def test_defaults_are_read_as_they_are_written() -> None:
    source = """
A = env.int("A", default=15 * 60)
B = env.float("B", default=2.5)
C = env.bool("C", default=True)
D = env.list("D", default=["x", "y"])
E = env.str("E", default=str(somewhere))
F = other("F", default=1)
"""
    assert generated.settings_read(source) == {"A": "900", "B": "2.5", "C": "on", "D": "x,y", "E": None}
