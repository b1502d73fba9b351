"""WHAT: assistants, conversations, turns, events, transcripts."""

from django.apps import AppConfig


class ConversationsConfig(AppConfig):
    name = "conversations"

    def ready(self) -> None:
        from conversations.controls import stop_turns_of
        from tenants.signals import member_halted

        member_halted.connect(stop_turns_of, dispatch_uid="stop_turns_of")
