"""All paths of the web: the API, the probes, sign-in, and the pages of each tenant."""

from django.contrib import admin
from django.urls import include, path

from config.api import api
from config.metrics import metrics
from config.probes import health, ready

urlpatterns = [
    path("health", health),
    path("ready", ready),
    path("metrics", metrics),
    path("v1/", api.urls),
    path("accounts/", include("allauth.urls")),
    path("admin/", admin.site.urls),
    path("", include("conversations.urls")),
]
handler400 = "conversations.pages.bad_request"
handler403 = "conversations.pages.forbidden"
handler404 = "conversations.pages.not_found"
handler500 = "conversations.pages.server_error"
