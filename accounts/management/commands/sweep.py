"""`manage.py sweep`: delete what has expired, and Django's own expired browser sessions."""

from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand

from accounts import services


class Command(BaseCommand):
    """Safe to run at any time and from several machines at once; sign-ins sweep a little too."""

    help = "Delete expired one-time passwords, ended sessions, old counts of attempts and attachments that nobody sent."

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Sweep in short transactions until nothing is left."""
        total = 0
        while gone := services.sweep():
            total += gone
        total += sum(hook() for hook in services.sweep_hooks)
        call_command("clearsessions")
        self.stdout.write(f"{total} rows and files deleted.")
