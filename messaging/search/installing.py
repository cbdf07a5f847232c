"""Keeps SQLite's triggers: a migration that makes the table of messages anew drops them without a word."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.db import connections

TRIGGERS = (Path(__file__).parent / "sqlite_triggers.sql").read_text()


def statements(script: str) -> Iterator[str]:
    """The statements of a script for SQLite, one at a time, so that a transaction goes on over them."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def after_migrate(*, using: str, **_: Any) -> None:
    """Make the triggers that are missing (`django.db.models.signals.post_migrate`)."""
    connection = connections[using]
    if connection.vendor == "sqlite" and "messaging_searchkey" in connection.introspection.table_names():
        with connection.cursor() as cursor:
            for statement in statements(TRIGGERS):
                cursor.execute(statement)
