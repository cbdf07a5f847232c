"""`manage.py seed --users N --messages M`: fill a database for trials."""

from __future__ import annotations

import argparse
import secrets
import time
from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.hashers import make_password
from django.core.management.base import BaseCommand, CommandError
from django.db import IntegrityError, connection
from tqdm import tqdm

from messaging import seeding


class Command(BaseCommand):
    """See the module."""

    help = (
        "Fill the database for trials: users user000001, user000002, …, contacts of each other in pairs, "
        "with direct conversations. Run again, it adds on top."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options."""
        parser.add_argument("--users", type=_count, required=True, metavar="N", help="how many users to add")
        parser.add_argument(
            "--messages", type=_count, default=0, metavar="M", help="how many messages to add"
        )
        parser.add_argument(
            "--conversations", type=_count, metavar="C",
            help="between how many pairs of the new users (default: one for two users)",
        )  # fmt: skip
        parser.add_argument("--password", help="of all new users (default: made at random and printed)")

    def handle(
        self,
        *_args: Any,
        users: int,
        messages: int,
        conversations: int | None,
        password: str | None,
        verbosity: int,
        **_options: Any,
    ) -> None:
        """Add the rows; what was added before an interruption stays, and is consistent."""
        possible = users * (users - 1) // 2
        wanted = users // 2 if conversations is None else conversations
        if wanted > possible:
            raise CommandError(f"{users} users have {possible} pairs, too few for {wanted} conversations.")
        if messages and not wanted:
            raise CommandError("Messages need at least one conversation, so at least two users.")
        password = password or secrets.token_urlsafe(12)
        started = time.monotonic()
        # None: shown on a terminal only.
        hidden = True if verbosity == 0 else None
        with tqdm(total=users, unit=" users", disable=hidden) as bar:
            try:
                # One hash for all: hashing is meant to be slow.
                persons = seeding.people(
                    count=users, password_hash=make_password(password), progress=bar.update
                )
            except IntegrityError as error:
                raise CommandError("Somebody took one of the usernames meanwhile. Run it again.") from error
        with tqdm(total=messages, unit=" messages", unit_scale=True, disable=hidden) as bar:
            todo = seeding.talks(persons=persons, conversations=wanted, messages=messages)
            seeding.converse(todo=todo, progress=bar.update)
        with connection.cursor() as cursor:
            # So that the planner knows the tables as they are now.
            cursor.execute("ANALYZE")
        if verbosity and persons:
            self.stdout.write(
                f"{users} users, {wanted} conversations and {messages} messages added "
                f"in {time.monotonic() - started:.1f} s."
            )
            self.stdout.write(
                f"Sign in as {persons[0].username} to {persons[-1].username}, password: {password}"
            )


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError("a whole number from 0")
    return int(text)
