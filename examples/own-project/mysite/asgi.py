"""HTTP by Django, and chatbe's socket at /v1/ws."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")

from chatbe.asgi import application

__all__ = ["application"]
