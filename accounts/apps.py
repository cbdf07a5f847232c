"""The app's registration with Django and with the hub."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """Users, sessions, one-time passwords, contacts, blocks."""

    name = "accounts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Tell the hub how sockets sign in."""
        from accounts import handlers
        from chatbe.hub import registry

        registry.sign_in(handlers.authenticate, handlers.admit)
        registry.otps_by(handlers.issue_otps)
