"""`manage.py docs`: write the generated documents, or check that they are what the code says."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from chatbe import generated


class Command(BaseCommand):
    """See the module."""

    help = "Write docs/ from the code (frames, endpoints, settings), or check it."
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's declaration

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options."""
        parser.add_argument("--check", action="store_true", help="write nothing; fail if one has drifted")

    def handle(self, *_args: Any, check: bool, **_options: Any) -> None:
        """Write or check."""
        root = settings.BASE_DIR
        problems = list(generated.settings_problems(root))
        if check:
            problems += [
                f"{path} is no longer what the code says. Run: make docs-generate"
                for path in generated.drifted(root)
            ]
        else:
            for path in generated.write(root):
                self.stdout.write(f"wrote {path}")
        if problems:
            raise CommandError("\n".join(problems))
