"""The writer's functions in their present form: a message to a group reads none of its other members."""

from typing import Any

from django.db import migrations

from messaging.writer.postgres import FUNCTIONS


def install(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(FUNCTIONS)


class Migration(migrations.Migration):
    dependencies = [("messaging", "0008_repeats_and_words")]

    operations = [migrations.RunPython(install, migrations.RunPython.noop)]
