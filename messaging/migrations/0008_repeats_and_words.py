"""Functions in their present form: whose repeat is a conflict, and which words a text has."""

from pathlib import Path
from typing import Any

from django.db import migrations

from messaging.writer.postgres import FUNCTIONS

SEARCH = Path(__file__).parent.parent / "search"


def install(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(FUNCTIONS)
        schema_editor.execute((SEARCH / "postgres.sql").read_text())
        # Other words than before: they are made again, and searches read the messages meanwhile.
        schema_editor.execute("DELETE FROM messaging_segment")


class Migration(migrations.Migration):
    dependencies = [("messaging", "0007_search_attachments_retention")]

    operations = [migrations.RunPython(install, migrations.RunPython.noop)]
