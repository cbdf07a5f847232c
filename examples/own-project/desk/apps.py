"""The project's own app: a help desk that everybody who signs up may write to."""

from django.apps import AppConfig


class DeskConfig(AppConfig):
    """See the module."""

    name = "desk"

    def ready(self) -> None:
        """Hear of new accounts."""
        from desk import greetings

        greetings.connect()
