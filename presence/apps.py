"""The app's registration with Django."""

from django.apps import AppConfig


class PresenceConfig(AppConfig):
    """Ready hooks of `presence`."""

    name = "presence"
    default_auto_field = "django.db.models.BigAutoField"
