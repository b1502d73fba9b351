"""All paths of the web: the API, sign-in, and the pages of each tenant."""

from django.urls import include, path

urlpatterns = [
    path("accounts/", include("allauth.urls")),
    path("", include("conversations.urls")),
]
