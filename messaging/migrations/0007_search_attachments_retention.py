"""Room for retention and attachments, and what search needs: tables, functions and triggers of its own."""

from pathlib import Path
from typing import Any

from django.db import migrations, models

from messaging.search.installing import statements
from messaging.writer.postgres import FUNCTIONS

SEARCH = Path(__file__).parent.parent / "search"


def install(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        # It stores attachments now, and takes no answer to what is gone.
        schema_editor.execute(FUNCTIONS)
        schema_editor.execute((SEARCH / "postgres.sql").read_text())
    else:
        for name in ("sqlite.sql", "sqlite_triggers.sql", "sqlite_fill.sql"):
            for statement in statements((SEARCH / name).read_text()):
                schema_editor.execute(statement)


def remove(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        for trigger in ("message_changed", "messages_removed", "messages_truncated"):
            schema_editor.execute(f"DROP TRIGGER messaging_{trigger} ON messaging_message")
            schema_editor.execute(f"DROP FUNCTION messaging_{trigger}()")
        schema_editor.execute("DROP FUNCTION messaging_index_again(uuid, bigint, bigint)")
        schema_editor.execute("DROP FUNCTION messaging_index_next(uuid, boolean, bigint)")
        schema_editor.execute("DROP FUNCTION messaging_index(uuid, bigint, bigint)")
        schema_editor.execute("DROP FUNCTION messaging_words(text)")
        schema_editor.execute("DROP FUNCTION messaging_text(text)")
        schema_editor.execute("DROP FUNCTION messaging_index_lock(uuid)")
        schema_editor.execute("DROP TABLE messaging_segment")
    else:
        for trigger in ("insert", "update", "delete"):
            schema_editor.execute(f"DROP TRIGGER messaging_search_{trigger}")
        schema_editor.execute("DROP TABLE messaging_search")
        schema_editor.execute("DROP TABLE messaging_searchkey")


class Migration(migrations.Migration):
    dependencies = [("messaging", "0006_living_messages")]

    operations = [
        migrations.AddField(
            model_name="conversation",
            name="purged_seq",
            field=models.BigIntegerField(
                db_default=0, default=0, editable=False,
                help_text="Messages up to this seq are gone, by retention.",
            ),
        ),
        migrations.AddField(
            model_name="message",
            name="attachments",
            field=models.TextField(
                blank=True, editable=False, help_text="The contract's attachment objects, in JSON.", null=True
            ),
        ),
        migrations.AddIndex(
            model_name="message",
            index=models.Index(
                condition=models.Q(("attachments__isnull", False)), fields=["conversation"], name="message_attached"
            ),
        ),
        migrations.RunPython(install, remove),
    ]
