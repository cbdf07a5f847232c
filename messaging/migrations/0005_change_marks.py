"""Log moved marks, too, so that receipts which the bus lost are found."""

from typing import Any

from django.db import migrations


def install(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE messaging_change ADD COLUMN IF NOT EXISTS marks jsonb")


class Migration(migrations.Migration):
    dependencies = [("messaging", "0004_changelog")]

    operations = [migrations.RunPython(install, migrations.RunPython.noop)]
