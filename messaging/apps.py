"""The app's registration with Django."""

from django.apps import AppConfig


class MessagingConfig(AppConfig):
    """Ready hooks of `messaging`."""

    name = "messaging"
    default_auto_field = "django.db.models.BigAutoField"
