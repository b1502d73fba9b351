"""The pages' paths."""

from django.urls import path

from conversations import pages

urlpatterns = [
    path("", pages.home, name="home"),
    path("t/<slug:slug>/", pages.new_chat, name="new_chat"),
    path("t/<slug:slug>/conversations", pages.conversations, name="conversations"),
    path("t/<slug:slug>/c/<uuid:conversation_id>/", pages.conversation, name="conversation"),
    path(
        "t/<slug:slug>/c/<uuid:conversation_id>/before/<int:number>",
        pages.earlier_turns,
        name="earlier_turns",
    ),
    path("t/<slug:slug>/credentials/", pages.credentials, name="credentials"),
    path("t/<slug:slug>/credentials/<uuid:credential_id>/", pages.credential, name="credential"),
]
