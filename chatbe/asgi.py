"""The ASGI application: HTTP by Django, the socket at /v1/ws by the hub. Any ASGI server runs it.

A project with sockets of its own routes /v1/ws to `socket_application`.
"""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatbe.settings")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path, re_path

from chatbe.hub.consumer import SocketConsumer
from chatbe.hub.origin import OriginGuard, refuse

socket_application = OriginGuard(
    URLRouter(
        [
            # `path` is typed for views; Channels gives it applications.
            path("v1/ws", SocketConsumer.as_asgi()),  # type: ignore[arg-type,list-item]
            re_path("", refuse),  # type: ignore[arg-type,list-item]
        ]
    )
)

application = ProtocolTypeRouter({"http": django_application, "websocket": socket_application})
