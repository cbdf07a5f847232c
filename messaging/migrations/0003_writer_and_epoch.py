"""Install the writer's function (PostgreSQL) and name this database's history."""

import secrets
from typing import Any

from django.db import migrations, models

from messaging.writer.postgres import FUNCTIONS


def install(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        # The function is checked when it is first called, so it may name tables of later migrations.
        schema_editor.execute(FUNCTIONS)
    apps.get_model("messaging", "Epoch").objects.get_or_create(pk=1, defaults={"value": secrets.token_hex(8)})


def remove(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(
            "DROP FUNCTION IF EXISTS messaging_write(json, timestamptz, text, boolean);"
            "DROP FUNCTION IF EXISTS messaging_conflict();"
        )


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0001_initial"),
        ("messaging", "0002_fillfactor"),
    ]

    operations = [
        migrations.CreateModel(
            name="Epoch",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("value", models.CharField(max_length=32)),
            ],
            options={"verbose_name_plural": "epoch"},
        ),
        migrations.RunPython(install, remove),
    ]
