"""T21: what a model, a tool or a person wrote is read, and does nothing; T24: nothing of it is a page of ours."""

from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from asgiref.sync import sync_to_async
from django.test import AsyncClient
from lxml import html

from conversations.models import Conversation
from tenants.context import tenant_context
from tests.cast import Person
from tests.conversations.stage import Hands, say
from tests.conversations.test_markdown import ATTACKS

MARK = "mark-3c2d"
HOSTILE = (
    f'"><script>window.hit="{MARK}"</script><img src=https://elsewhere.example/{MARK}.png onerror=alert(1)>'
    f"<a href='javascript:alert(1)'>x</a><iframe srcdoc='x'></iframe>"
    f"\u202egnp.{MARK}\u2066\x1b[2J\x1b]0;{MARK}\x07\x85"
)
TITLE = f'<script>"{MARK}"</script>\u202e\x1b[2J<img src=https://elsewhere.example/x.png>'
ACTIVE = "//script[not(@src)] | //iframe | //object | //embed | //form[contains(@action, 'elsewhere')]"


def conversation_of_hostile_words(person: Person) -> str:
    """Hostile words in every place: prompt, title, answer, thought, tool's name, input, output, question, error."""
    hands = Hands.claiming(say(person.caller, HOSTILE))
    tool = {"tool_use": "t1", "name": HOSTILE, "input": {"file_path": HOSTILE, HOSTILE: HOSTILE}}
    bash = {
        "tool_use": "t2",
        "name": "Bash",
        "input": {"command": HOSTILE, "description": HOSTILE},
        "block": 3,
    }
    write = {
        "tool_use": "t3",
        "name": "Write",
        "input": {"file_path": HOSTILE, "content": HOSTILE},
        "block": 4,
    }
    hands.write(
        hands.row("thinking.delta", {"block": 0, "text": HOSTILE}),
        hands.row("text.delta", {"block": 1, "text": "\n\n".join([HOSTILE, *ATTACKS])}),
        *(hands.row("tool.started", one) for one in (tool, bash, write)),
        *(
            hands.row("tool.finished", {"tool_use": name, "output": HOSTILE, "is_error": error})
            for name, error in (("t1", False), ("t2", True), ("t3", False))
        ),
        hands.row(
            "permission.requested",
            {"request": str(uuid4()), "tool_use": "t2", "name": HOSTILE}
            | {"input": {"command": HOSTILE}, "title": HOSTILE, "choices": ["allow", "deny"]},
        ),
    )
    with tenant_context(person.caller.tenant_id):
        Conversation.objects.filter(id=hands.claim.conversation).update(title=TITLE)
    return str(hands.claim.conversation)


async def test_t21_hostile_words_are_text_in_every_place_of_a_page(owner: Person) -> None:
    conversation = await sync_to_async(conversation_of_hostile_words)(owner)
    client = await sync_to_async(lambda: owner.async_client)()
    for path in (f"c/{conversation}/", "conversations", ""):
        answer = await client.get(f"/t/{owner.caller.tenant_slug}/{path}")
        assert answer.status_code == 200
        text = answer.content.decode()
        shown: Any = html.fromstring(text)
        assert MARK in shown.text_content(), path
        assert shown.xpath(ACTIVE) == []
        assert [img for img in shown.xpath("//img/@src") if not img.startswith("/static/")] == []
        for element in shown.iter():
            assert not {name for name in element.attrib if name.startswith("on") or name == "style"}
        for link in shown.xpath("//a/@href"):
            assert urlsplit(link).scheme in ("", "http", "https", "mailto"), link
        for control in ("\u202e", "\u2066", "\x1b", "\x07", "\x85"):
            assert control not in text, (path, ascii(control))
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self';" in policy and "img-src 'self';" in policy and "unsafe" not in policy


async def test_t24_what_an_agent_made_leaves_as_data_that_no_browser_runs(owner: Person) -> None:
    """No route serves a file of a workspace yet; tools' output and answers leave as JSON, events or plain text."""
    conversation = await sync_to_async(conversation_of_hostile_words)(owner)
    answer = await AsyncClient().get(f"/v1/conversations/{conversation}", headers={"x-api-key": owner.key})
    assert MARK in answer.content.decode()
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    events = await AsyncClient().get(
        f"/v1/conversations/{conversation}/events", headers={"x-api-key": owner.key}
    )
    assert events.headers["content-type"] == "text/event-stream"
    assert events.headers["x-content-type-options"] == "nosniff"
    events.close()
