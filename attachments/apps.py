"""The app's registration with Django, with messaging and with accounts."""

from django.apps import AppConfig


class AttachmentsConfig(AppConfig):
    """The files of messages."""

    name = "attachments"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Keep messaging's files, and take part in sweeping, erasing and exporting."""
        from accounts import services as accounts
        from attachments import selectors, services
        from messaging import services as messaging

        messaging.attachment_keeper = services.Keeper()
        messaging.removal_hooks.append(services.attachments_remove)
        accounts.sweep_hooks.append(services.sweep)
        accounts.erasure_hooks.append(services.unsent_remove)
        accounts.export_hooks["attachments"] = selectors.export
