"""The app's registration with Django, with the hub and with accounts."""

from django.apps import AppConfig


class PresenceConfig(AppConfig):
    """Who is online."""

    name = "presence"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Give each node its presence, and accounts the statuses of contacts."""
        from accounts import selectors as accounts
        from chatbe.hub import registry
        from presence import handlers, selectors
        from presence.registry import terms

        # Durations that cannot work are told at the start, not at the first socket.
        terms()
        registry.part(handlers.PresencePart)
        registry.on_control("presence", handlers.on_presence)
        registry.on_control("contacts_changed", handlers.on_contacts_changed)
        registry.on_control("session_ended", handlers.on_session_ended)
        registry.on_control("suspended", handlers.on_suspended)
        accounts.presence_of = selectors.statuses
