"""Log what changed, by transaction (PostgreSQL), and let the writer's function fill it."""

from pathlib import Path
from typing import Any

from django.db import migrations

from messaging.writer.postgres import FUNCTIONS

CHANGELOG = (Path(__file__).parent.parent / "changelog.sql").read_text()


def install(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(CHANGELOG)
        schema_editor.execute(FUNCTIONS)


def remove(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(
            "DROP TRIGGER messaging_log_user ON accounts_user;"
            "DROP TRIGGER messaging_log_conversation ON messaging_conversation;"
            "DROP FUNCTION messaging_log_user(); DROP FUNCTION messaging_log_conversation();"
            "DROP TABLE messaging_change"
        )


class Migration(migrations.Migration):
    dependencies = [("messaging", "0003_writer_and_epoch")]

    operations = [migrations.RunPython(install, remove)]
