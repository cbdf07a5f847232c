"""`manage.py epoch`: the name of this database's history, and a new one after a restore."""

import secrets
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from messaging.models import Epoch
from messaging.stream import epoch


class Command(BaseCommand):
    """See the module."""

    help = (
        "Print the epoch, or (--new) change it: clients then start afresh. For after a restore or a failover."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options."""
        parser.add_argument("--new", action="store_true", help="give this database's history a new name")

    def handle(self, *_args: Any, new: bool, **_options: Any) -> None:
        """Print it, after changing it if asked to. Running servers notice within seconds."""
        if new:
            Epoch.objects.update(value=secrets.token_hex(8))
        self.stdout.write(epoch())
