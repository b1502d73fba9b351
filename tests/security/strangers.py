"""How B reaches for A's objects over every route. A route without an entry here fails the tests of T1.

`{conversation}` and the like stand for an object of A's; `KINDS` says what there is. A sentence in place of an
attack says why the route names none.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from django.urls import URLPattern, URLResolver, get_resolver

from config.api import api
from conversations.models import Assistant, Conversation
from tenants.context import tenant_context
from tenants.invitations import invite
from tenants.models import ApiKey, Credential
from tests.cast import Person
from tests.conversations.stage import Hands, say

type Objects = dict[str, str]

CANARY = "canary-5f0c"


@dataclass(frozen=True)
class Attack:
    """What is sent to a route whose path names A's object, or whose `body`, `query` or `form` does."""

    body: Any = None
    query: str = ""
    form: dict[str, str] = field(default_factory=dict)


CALLS: dict[str, Attack | str] = {
    "POST /v1/chat/stream": Attack({"message": "x", "conversation": "{conversation}"}),
    "GET /v1/conversations": Attack(query="after_id={conversation}"),
    "POST /v1/conversations": Attack({"assistant": "{assistant}"}),
    "GET /v1/conversations/{conversation}": Attack(),
    "PATCH /v1/conversations/{conversation}": Attack({"title": "taken"}),
    "DELETE /v1/conversations/{conversation}": Attack(),
    "GET /v1/conversations/{conversation}/events": Attack(),
    "POST /v1/conversations/{conversation}/turns": Attack({"message": "x"}),
    "POST /v1/conversations/{conversation}/interrupt": Attack(),
    "POST /v1/permissions/{permission}": Attack({"decision": "allow"}),
    "GET /v1/credentials": "lists the caller's own",
    "POST /v1/credentials": "its body names no object (T2 tries all the same)",
    "GET /v1/credentials/{credential}": Attack(),
    "PATCH /v1/credentials/{credential}": Attack({"name": "taken", "default": True}),
    "DELETE /v1/credentials/{credential}": Attack(),
    "GET /v1/members": "lists those of the caller's tenant",
    "GET /v1/members/{member}": Attack(),
    "PATCH /v1/members/{member}": Attack({"role": "viewer"}),
    "DELETE /v1/members/{member}": Attack(),
    "GET /v1/invitations": "lists those of the caller's tenant",
    "POST /v1/invitations": "its body names no object (T2 tries all the same)",
    "DELETE /v1/invitations/{invitation}": Attack(),
    "GET /v1/api-keys": "lists the caller's own",
    "POST /v1/api-keys": "its body names no object (T2 tries all the same)",
    "GET /v1/api-keys/{key}": Attack(),
    "PATCH /v1/api-keys/{key}": Attack({"name": "taken", "expires_at": None}),
    "POST /v1/api-keys/{key}/rotate": Attack({"overlap_seconds": 0}),
    "DELETE /v1/api-keys/{key}": Attack(),
    "GET /v1/usage": "adds up what was used in the caller's tenant",
    "GET /v1/audit": "lists what was done in the caller's tenant (T2 tries its fields)",
}

PAGES: dict[str, Attack | str] = {
    "health": "says only that the process lives",
    "ready": "says only what the process needs",
    "metrics": "counts for the operator, of no tenant by name",
    "": "leads to the caller's own tenants",
    "t/<slug:slug>/": Attack(),
    "t/<slug:slug>/conversations": Attack(query="current={conversation}"),
    "t/<slug:slug>/c/<uuid:conversation_id>/": Attack(),
    "t/<slug:slug>/c/<uuid:conversation_id>/before/<int:number>": Attack(),
    "t/<slug:slug>/c/<uuid:conversation_id>/share": Attack(form={"shared": "yes"}),
    "t/<slug:slug>/settings/": Attack(form={"act": "budget", "budget_usd": "0", "name": "taken"}),
    "t/<slug:slug>/settings/delete": Attack(form={"name": "x"}),  # B's own slug would end B's own tenant
    "t/<slug:slug>/usage/": Attack(query="month=2026-11&member={member}"),
    "t/<slug:slug>/audit/": Attack(query="act=member.joined"),
    "t/<slug:slug>/members/": Attack(form={"role": "viewer", "email": ""}),
    "t/<slug:slug>/members/<uuid:member_id>/": Attack(form={"act": "role", "role": "viewer"}),
    "t/<slug:slug>/invitations/<uuid:invitation_id>/": Attack(form={"act": "revoke"}),
    "t/<slug:slug>/api-keys/": Attack(form={"name": "x", "scopes": "read"}),
    "t/<slug:slug>/api-keys/<uuid:key_id>/": Attack(form={"act": "rotate", "name": CANARY}),
    "invitation/<str:token>/": Attack(form={"act": "accept"}),
    "t/<slug:slug>/credentials/": Attack(
        form={"name": "x", "kind": "api_key", "secret": "s", "owner": "tenant"}
    ),
    "t/<slug:slug>/credentials/<uuid:credential_id>/": Attack(form={"act": "default", "name": CANARY}),
}
# Apps of others: whatever they route, A's person or object in every parameter is as good as one that is not there.
FOREIGN_APPS = ("accounts/", "admin/")

FRAMES: dict[str, dict[str, Any] | str] = {
    "subscribe": {"conversation": "{conversation}", "after": 0},
    "message": {"conversation": "{conversation}", "id": "{conversation}", "content": "x"},
    "interrupt": {"conversation": "{conversation}"},
    "permission": {"request": "{permission}", "decision": "allow"},
    "set": {"conversation": "{conversation}", "model": "other"},
    "warm": {"conversation": "{conversation}"},
    "ping": "names nothing",
}

# Which object a parameter of a path names.
KINDS = {
    "conversation": "conversation",
    "conversation_id": "conversation",
    "permission": "permission",
    "credential": "credential",
    "credential_id": "credential",
    "member": "member",
    "member_id": "member",
    "key": "key",
    "key_id": "key",
    "invitation": "invitation",
    "invitation_id": "invitation",
    "token": "invitation",  # who has the token itself is invited
    "tenant_id": "tenant",
    "object_id": "user",
    "uidb36": "user_hex",
    "slug": "slug",
}
FIXED = {"number": "1", "app_label": "tenants", "content_type_id": "1", "url": "x"}


def objects_of(person: Person) -> Objects:
    """One object of each kind that belongs to this person's tenant, with the canary in it."""
    caller = person.caller
    submitted, request = say(caller, CANARY), str(uuid4())
    hands = Hands.claiming(submitted)
    hands.text(CANARY)
    asked = {"request": request, "tool_use": "t", "name": CANARY, "input": {}, "title": CANARY, "choices": []}
    hands.write(hands.row("permission.requested", asked))
    with tenant_context(caller.tenant_id):
        assistant = Assistant.objects.get()
        credential = Credential(tenant=person.membership.tenant, name=CANARY, kind="api_key")
        credential.secret = CANARY
        credential.save(force_insert=True)
        key, _text = ApiKey.objects.issue(person.membership, CANARY)
        invitation, _token = invite(caller, "viewer", f"{CANARY}@example.org")
        # Shared with the tenant it is nobody else's either.
        Conversation.objects.filter(id=submitted.conversation).update(is_shared=True)
    return {
        "conversation": str(submitted.conversation),
        "turn": str(submitted.turn),
        "assistant": str(assistant.id),
        "permission": request,
        "credential": str(credential.id),
        "key": str(key.id),
        "invitation": str(invitation.id),
        "tenant": str(caller.tenant_id),
        "member": str(caller.member_id),
        "user": str(caller.user_id),
        "user_hex": caller.user_id.hex,
        "slug": caller.tenant_slug,
    }


def missing_like(objects: Objects) -> Objects:
    """Names of the same shape that nobody has."""
    nobody = {kind: str(uuid4()) for kind in objects}
    slug = objects["slug"]
    return nobody | {"slug": slug[:-8] + uuid4().hex[:8], "user_hex": uuid4().hex}


def filled(value: Any, objects: Objects) -> Any:
    """The value with each `{kind}` replaced by that object."""
    match value:
        case str():
            return re.sub(r"{(\w+)}", lambda found: objects[KINDS.get(found[1], found[1])], value)
        case dict():
            return {name: filled(part, objects) for name, part in value.items()}
        case list():
            return [filled(part, objects) for part in value]
    return value


# What there is --------------------------------------------------------------------------------------------------


def calls() -> set[str]:
    """Every operation of the OpenAPI document, which tests/config/test_documents.py holds to the API."""
    return {f"{method.upper()} {path}" for path, ways in document()["paths"].items() for method in ways}


def document() -> dict[str, Any]:
    return dict(api.get_openapi_schema())


def pages(resolver: Any = None, before: str = "") -> Iterator[str]:
    """Every pattern of the URL table outside of the API."""
    for route in (resolver or get_resolver()).url_patterns:
        pattern = before + str(route.pattern)
        if isinstance(route, URLResolver):
            yield from pages(route, pattern)
        elif isinstance(route, URLPattern) and not pattern.startswith("v1/"):
            yield pattern


def path_of(pattern: str, objects: Objects) -> str:
    """The path of a pattern with A's objects in it. KeyError: say in KINDS which object a parameter names."""
    regex = re.sub(r"\(\?P<(\w+)>(?:[^()]|\[[^]]*\])+\)", r"<\1>", pattern).replace("^", "").replace("$", "")
    return "/" + re.sub(
        r"<(?:\w+:)?(\w+)>", lambda found: FIXED.get(found[1]) or objects[KINDS[found[1]]], regex
    ).replace("\\Z", "")
