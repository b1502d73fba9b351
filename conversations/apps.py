"""WHAT: assistants, conversations, turns, events, transcripts."""

from django.apps import AppConfig


class ConversationsConfig(AppConfig):
    name = "conversations"
