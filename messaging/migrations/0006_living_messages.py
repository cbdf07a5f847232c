"""Groups that live and messages that change: descriptions, earlier versions, reactions, mentions."""

from typing import Any

import chatbe.core.clock
import chatbe.core.ids
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

from messaging.writer.postgres import MENTIONS_FUNCTION


def install(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(MENTIONS_FUNCTION)


def remove(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(
            "DROP FUNCTION IF EXISTS messaging_write_mentions(json, timestamptz, text, boolean)"
        )


def count_members(apps: Any, schema_editor: Any) -> None:
    Conversation, Membership = apps.get_model("messaging", "Conversation"), apps.get_model("messaging", "Membership")
    for group in Conversation.objects.filter(kind="group").iterator():
        group.member_count = Membership.objects.filter(conversation=group, active=True).count()
        group.save(update_fields=["member_count"])


class Migration(migrations.Migration):

    dependencies = [
        ('messaging', '0005_change_marks'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name='conversation',
            name='description',
            field=models.CharField(blank=True, db_default='', default='', max_length=500),
        ),
        migrations.AddField(
            model_name='conversation',
            name='member_count',
            field=models.IntegerField(db_default=0, default=0, editable=False, help_text='Of a group: its active members.'),
        ),
        migrations.AddField(
            model_name='membership',
            name='left_rev',
            field=models.BigIntegerField(db_default=0, default=0, help_text='The rev at which they last left or were removed; 0: never.'),
        ),
        migrations.AddField(
            model_name='message',
            name='mentions',
            field=models.TextField(blank=True, help_text='The usernames that the body mentions, `all` for everyone, with blanks between.', null=True),
        ),
        migrations.AddField(
            model_name='message',
            name='reacted',
            field=models.BooleanField(db_default=False, default=False, help_text='Whether it has reactions.'),
        ),
        migrations.AlterField(
            model_name='membership',
            name='created_at',
            field=models.DateTimeField(default=chatbe.core.clock.now, editable=False, help_text='When they last joined.'),
        ),
        migrations.AlterField(
            model_name='membership',
            name='muted_until',
            field=models.DateTimeField(blank=True, help_text='A time that has passed says that it once was muted.', null=True),
        ),
        migrations.CreateModel(
            name='MessageVersion',
            fields=[
                ('id', models.UUIDField(default=chatbe.core.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('body', models.TextField()),
                ('replaced_at', models.DateTimeField(default=chatbe.core.clock.now)),
                ('message', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='versions', to='messaging.message')),
            ],
        ),
        migrations.CreateModel(
            name='Mention',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('seq', models.BigIntegerField()),
                ('conversation', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='mentions', to='messaging.conversation')),
                ('message', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='mentioned', to='messaging.message')),
                ('user', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='mentions', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'indexes': [models.Index(fields=['conversation', 'user', 'seq'], name='mention_unread')],
            },
        ),
        migrations.CreateModel(
            name='Reaction',
            fields=[
                ('id', models.UUIDField(default=chatbe.core.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('emoji', models.CharField(max_length=64)),
                ('message', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='reactions', to='messaging.message')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='reactions', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('message', 'emoji', 'user'), name='reaction_unique')],
            },
        ),
        migrations.RunPython(install, remove),
        migrations.RunPython(count_members, migrations.RunPython.noop),
    ]
