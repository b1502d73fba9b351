"""The ASGI application: pages and API through Django, sockets through the consumers."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django_application = get_asgi_application()

# Models can be imported only now.
from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path, re_path  # noqa: E402

from conversations.consumers import ChatConsumer, PageConsumer, refuse  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": django_application,
        "websocket": AuthMiddlewareStack(
            URLRouter(
                [
                    path("v1/chat/ws", ChatConsumer.as_asgi()),
                    path("t/<slug:slug>/live", PageConsumer.as_asgi()),
                    re_path("", refuse),
                ]
            )
        ),
    }
)
