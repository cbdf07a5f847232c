"""Leave room in the pages of the two tables whose rows change with every message.

An update of counters or marks then finds place beside the old row (a heap-only tuple, HOT), so
that no index is touched and nothing is left for vacuum to find by scanning them.
"""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import StateApps

TABLES = ("messaging_conversation", "messaging_membership")


def leave_room(_apps: StateApps, editor: BaseDatabaseSchemaEditor) -> None:
    """Set the fill factor; only PostgreSQL has one."""
    if editor.connection.vendor == "postgresql":
        for table in TABLES:
            editor.execute(f"ALTER TABLE {table} SET (fillfactor = 70)")


def fill(_apps: StateApps, editor: BaseDatabaseSchemaEditor) -> None:
    """Back to the default."""
    if editor.connection.vendor == "postgresql":
        for table in TABLES:
            editor.execute(f"ALTER TABLE {table} RESET (fillfactor)")


class Migration(migrations.Migration):
    """See the module."""

    dependencies: ClassVar[list[tuple[str, str]]] = [("messaging", "0001_initial")]

    operations: ClassVar[list[Operation]] = [migrations.RunPython(leave_room, fill)]
