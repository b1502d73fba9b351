"""First steps that the empty page offers."""

from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


@dataclass(frozen=True, slots=True)
class Starter:
    icon: str
    title: str | Promise
    about: str | Promise
    prompt: str | Promise


OFFLINE = [
    Starter("message-square", _("Ask what it can do"), _("The offline model tells its script"), "hello"),
    Starter("file-text", _("Watch an answer stream in"), _("Three hundred words"), "words 300"),
    Starter("brain", _("See a thought before the answer"), _("About the sea"), "think about the sea"),
    Starter(
        "terminal",
        _("See tools at work"),
        _("Writes a file, runs it, and asks you first"),
        "write hello.py: print(6 * 7)\nrun python3 hello.py",
    ),
]
ONLINE = [
    Starter(
        "message-square",
        _("Get to know it"),
        _("What it can do for you here"),
        _("What can you do for me here? Give me three examples that fit into this sandbox."),
    ),
    Starter(
        "terminal",
        _("Write a script"),
        _("And run it, with your leave"),
        _("Write a Python script that prints a calendar of this month, and run it."),
    ),
    Starter(
        "pencil",
        _("Work on a text"),
        _("Paste it, say what it is for"),
        _("Make this text clearer and half as long:\n\n"),
    ),
    Starter(
        "search",
        _("Understand some code"),
        _("Paste it, ask what it does"),
        _("Explain step by step what this code does, and where it could fail:\n\n"),
    ),
]


def starters_for(offline: bool) -> list[Starter]:
    return OFFLINE if offline else ONLINE
