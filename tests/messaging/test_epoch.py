"""`manage.py epoch`, for after a restore."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import call_command

from messaging.stream import epoch

pytestmark = pytest.mark.django_db


def printed(*arguments: str) -> str:
    output = StringIO()
    call_command("epoch", *arguments, stdout=output)
    return output.getvalue().strip()


def test_it_is_printed_and_stays_the_same() -> None:
    assert printed() == printed() == epoch() != ""


def test_a_new_one_is_another() -> None:
    before = epoch()
    assert printed("--new") == epoch() != before
