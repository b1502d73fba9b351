"""All paths of the web: the API, the probes, sign-in, and the pages of each tenant."""

from typing import NoReturn

from django.contrib import admin
from django.http import Http404, HttpRequest
from django.urls import include, path

from config.api import api
from config.metrics import metrics
from config.probes import health, ready

CLOSED = ("email/", "confirm-email/", "confirm-email/<path:url>", "login/code/", "login/code/<path:url>")


def closed(request: HttpRequest, **parameters: str) -> NoReturn:
    """What allauth offers besides, and we don't: nobody takes an address that they have not proved to be theirs."""
    raise Http404


urlpatterns = [
    path("health", health),
    path("ready", ready),
    path("metrics", metrics),
    path("v1/", api.urls),
    *[path(f"accounts/{page}", closed) for page in CLOSED],
    path("accounts/", include("allauth.urls")),
    path("admin/", admin.site.urls),
    path("", include("conversations.urls")),
]
handler400 = "conversations.pages.bad_request"
handler403 = "conversations.pages.forbidden"
handler404 = "conversations.pages.not_found"
handler500 = "conversations.pages.server_error"
