"""The app's registration with Django and with the hub."""

from django.apps import AppConfig


class MessagingConfig(AppConfig):
    """Conversations, memberships, messages."""

    name = "messaging"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Give the hub its reader and its commands, and accounts what it asks for on leaving."""
        from django.db.models.signals import post_migrate

        from accounts import services as accounts
        from chatbe.hub import registry
        from messaging import erasure, handlers, services, stream, sync, tails
        from messaging.search import indexing, installing

        registry.part(handlers.MessagingPart)
        registry.part(tails.TailPart)
        registry.part(indexing.IndexingPart)
        registry.reads_from(sync.DatabaseSource())
        registry.epoch_by(stream.epoch)
        accounts.block_hooks.append(services.conversation_direct_lock)
        accounts.unblock_hooks.append(services.marks_reveal)
        accounts.receipts_hooks.append(lambda user_id: services.marks_show(user_id=user_id))
        accounts.erasure_hooks.append(erasure.erase)
        accounts.export_hooks["messaging"] = erasure.export
        post_migrate.connect(installing.after_migrate, sender=self)
