"""The app's registration with Django and with the hub."""

from django.apps import AppConfig


class MessagingConfig(AppConfig):
    """Conversations, memberships, messages."""

    name = "messaging"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Give the hub its reader and its commands."""
        from chatbe.hub import registry
        from messaging import handlers, stream, tails

        registry.part(handlers.MessagingPart)
        registry.part(tails.TailPart)
        registry.reads_from(stream.DatabaseSource())
        registry.epoch_by(stream.epoch)
