"""`manage.py search_index`: bring the search index up to date at once, after an import or an upgrade."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.db import connection
from tqdm import tqdm

from messaging.search import indexing


class Command(BaseCommand):
    """See the module."""

    help = (
        "Make what is missing of the search index, at full speed. Servers do so by themselves, at their leisure; "
        "searches are right without it, but slower over much that is not indexed yet."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """It has none of its own."""

    def handle(self, *_args: Any, verbosity: int, **_options: Any) -> None:
        """Safe beside servers, and to be interrupted."""
        if connection.vendor != "postgresql":
            self.stdout.write("SQLite keeps its index by itself.")
            return
        with tqdm(unit=" messages", unit_scale=True, disable=True if verbosity == 0 else None) as bar:
            total = indexing.index_all(progress=bar.update)
        with connection.cursor() as cursor:
            # So that the planner knows which words are common.
            cursor.execute("ANALYZE messaging_segment")
        if verbosity:
            self.stdout.write(f"{total} messages indexed.")
