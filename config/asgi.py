"""The ASGI application: pages and API through Django, sockets through the consumers."""

import os
from typing import Any, cast

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django_application = get_asgi_application()

# Models can be imported only now.
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.conf import settings  # noqa: E402
from django.urls import path, re_path  # noqa: E402

from config.proxies import Proxied  # noqa: E402
from conversations.consumers import ChatConsumer, PageConsumer, refuse  # noqa: E402

# Typed for Django's views, these take ASGI applications as well.
sockets: list[Any] = [
    path("v1/chat/ws", cast(Any, ChatConsumer.as_asgi())),
    path("t/<slug:slug>/live", cast(Any, PageConsumer.as_asgi())),
    re_path("", cast(Any, refuse)),
]
application: Any = Proxied(
    cast(Any, ProtocolTypeRouter({"http": django_application, "websocket": URLRouter(sockets)})),
    trusted=settings.TRUSTED_PROXIES,
    https=settings.HTTPS,
)
