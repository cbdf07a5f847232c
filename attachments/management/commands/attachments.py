"""`manage.py attachments`: what is kept, whether the storage has it all, and a sweep."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.db.models import Count, Sum
from tqdm import tqdm

from attachments import services
from attachments.models import Attachment


class Command(BaseCommand):
    """See the module."""

    help = "Tell how many files are kept; --sweep deletes those that no message has, --check looks for missing ones."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options."""
        parser.add_argument(
            "--sweep", action="store_true", help="delete uploads that were never sent, and what is left over"
        )
        parser.add_argument("--check", action="store_true", help="look whether the storage has every file")

    def handle(self, *_args: Any, sweep: bool, check: bool, verbosity: int, **_options: Any) -> None:
        """Print what there is, after sweeping if asked to."""
        if sweep:
            self.stdout.write(f"{services.sweep()} attachments deleted.")
        kept = Attachment.objects.filter(removed_at=None)
        sums = kept.aggregate(
            count=Count("*"), size=Sum("size", default=0), thumbnails=Sum("thumbnail_size", default=0)
        )
        self.stdout.write(f"{sums['count']} attachments, {sums['size'] + sums['thumbnails']} bytes.")
        if check:
            store = services.storage()
            rows = kept.filter(stored_at__isnull=False)
            hidden = True if verbosity == 0 else None
            for row in tqdm(
                rows.iterator(chunk_size=2000), total=rows.count(), unit=" files", disable=hidden
            ):
                if not store.exists(row.path) or (
                    row.thumbnail_size and not store.exists(row.thumbnail_path)
                ):
                    self.stdout.write(f"missing: {row.pk}")
