"""`manage.py purge --older-than 90d`: delete old messages for good, beside live traffic."""

from __future__ import annotations

import argparse
import re
from argparse import ArgumentParser
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from tqdm import tqdm

from chatbe.core import clock
from messaging import retention
from messaging.models import Conversation

_UNITS: Final = {
    "s": timedelta(seconds=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
    "y": timedelta(days=365),
}


class Command(BaseCommand):
    """See the module."""

    help = (
        "Delete messages and their files for good once they are older than so long, in all conversations or those "
        "named. Safe beside servers and to be interrupted; clients drop what they hold of them."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options."""
        parser.add_argument(
            "--older-than", type=_age, required=True, metavar="AGE", dest="age",
            help="as 3600s, 12h, 90d, 8w or 2y",
        )  # fmt: skip
        parser.add_argument(
            "--conversation", type=UUID, action="append", default=[], metavar="ID", dest="conversations",
            help="in this conversation only; may be given many times",
        )  # fmt: skip
        parser.add_argument("--dry-run", action="store_true", help="tell how many there are, and delete none")

    def handle(
        self,
        *_args: Any,
        age: timedelta,
        conversations: list[UUID],
        dry_run: bool,
        verbosity: int,
        **_options: Any,
    ) -> None:
        """Delete in batches, each under a short lock of one conversation."""
        before = _moment(age)
        missing = set(conversations) - set(
            Conversation.objects.filter(pk__in=conversations).values_list("pk", flat=True)
        )
        if missing:
            raise CommandError(f"There is no conversation {min(missing)}.")
        count = retention.count_older(before=before, conversations=conversations)
        if dry_run:
            self.stdout.write(f"{count} messages are older.")
            return
        hidden = True if verbosity == 0 else None
        with tqdm(total=count, unit=" messages", unit_scale=True, disable=hidden) as bar:
            total = retention.purge(before=before, conversations=conversations, progress=bar.update)
        if verbosity:
            self.stdout.write(f"{total} messages deleted.")


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9][0-9]{0,5})([shdwy])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text} is no age: give a number and one of s, h, d, w, y")
    return int(match[1]) * _UNITS[match[2]]


def _moment(age: timedelta) -> datetime:
    try:
        return clock.now() - age
    except OverflowError as error:
        raise CommandError("Nothing can be so old.") from error
