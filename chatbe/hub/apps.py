"""The hub's registration with Django."""

from django.apps import AppConfig


class HubConfig(AppConfig):
    """The engine: sockets in, events out."""

    name = "chatbe.hub"
    label = "hub"
