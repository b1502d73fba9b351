"""T1, T2: B reaches for A's objects over every route there is, and names them in every body."""

import json
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.test import AsyncClient
from lxml import html
from psycopg import sql

from conversations.consumers import ChatConsumer
from tests.cast import Person
from tests.conversations.test_consumers import Socket, enter, sockets
from tests.security import strangers
from tests.security.strangers import (
    CALLS,
    CANARY,
    FRAMES,
    KINDS,
    PAGES,
    Attack,
    Objects,
    filled,
    path_of,
)
from tests.servers import TestServers

__all__ = ["sockets"]  # a fixture

VARYING = [
    (re.compile(r"req_[0-9a-f]{32}"), "req_"),
    (re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"), "an id"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+00:00)"), "a time"),
    (re.compile(r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT"), "a time"),
    (re.compile(r'(csrfmiddlewaretoken\\?" value=\\?")\w+'), r"\1"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "an id"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "a digest"),
    (re.compile(r"parley_[0-9a-f]{8}_[\w-]{43}"), "a key"),
    (re.compile(r"\b(parley_)?[0-9a-f]{8}\b"), "a prefix"),
    (re.compile(r'"(last_seq|number)": \d+'), r"\1"),
    (re.compile(r'"last4": "\w+"'), "last4"),
]
UNTOLD = {"request-id", "set-cookie", "content-length"}


class Asker:
    """One person's way to ask: by key, by cookie, or as nobody."""

    def __init__(self, name: str, client: AsyncClient, key: str = "") -> None:
        self.name = name
        self.client = client
        self.headers = {"x-api-key": key} if key else {}

    async def ask(self, method: str, path: str, attack: Attack, objects: Objects) -> Any:
        """The answer, as it is told apart: status, headers, body; without what differs each time."""
        url = f"{path}?{filled(attack.query, objects)}"
        if attack.form:
            form = {name: [filled(value, objects)] for name, value in attack.form.items()}
            answer = await self.client.post(url, form)
        else:
            body = json.dumps(filled(attack.body or {}, objects))
            answer = await self.client.generic(method, url, body, "application/json", headers=self.headers)
        content = "" if answer.streaming else answer.content.decode()
        answer.close()
        headers = {name: value for name, value in answer.headers.items() if name.lower() not in UNTOLD}
        told = f"{answer.status_code} {sorted(headers.items())} {content}".replace(objects["slug"], "a slug")
        for pattern, same in VARYING:
            told = pattern.sub(same, told)
        return told


@pytest.fixture
def outsider(stranger: Person) -> Person:
    """B, with key and cookie made."""
    assert stranger.key and stranger.cookie
    return stranger


@pytest.fixture
def askers(outsider: Person) -> list[Asker]:
    return [
        Asker("by key", AsyncClient(), outsider.key),
        Asker("by cookie", outsider.async_client),
        Asker("signed out", AsyncClient()),
    ]


@pytest.fixture
def theirs(owner: Person) -> Objects:
    """A's objects."""
    return strangers.objects_of(owner)


@pytest.fixture
def unhurried(settings: Any) -> None:
    """Limits are another test's."""
    settings.KEY_MESSAGES_PER_SECOND = settings.PAGES_PER_SECOND = settings.AUDIT_REFUSALS_PER_MINUTE = 10_000
    settings.ACCOUNT_RATE_LIMITS = False


def rows_of(servers: TestServers, tenant: str) -> dict[str, list[Any]]:
    """All that the database has of a tenant, by table, as a superuser sees it."""
    with servers.as_admin() as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.columns WHERE column_name = 'tenant_id'"
            " AND table_schema = 'public' UNION SELECT 'tenants_tenant' ORDER BY 1"
        ).fetchall()
        found = {}
        for (table,) in tables:
            column = "id" if table == "tenants_tenant" else "tenant_id"
            asked = sql.SQL("SELECT to_jsonb(t) FROM {} t WHERE {} = %s ORDER BY to_jsonb(t)::text")
            rows = connection.execute(
                asked.format(sql.Identifier(table), sql.Identifier(column)), [tenant]
            ).fetchall()
            found[table] = [row for (row,) in rows]
    return {table: rows for table, rows in found.items() if rows}


# T1 -------------------------------------------------------------------------------------------------------------


def test_t1_every_route_and_every_command_has_an_entry() -> None:
    patterns = [page for page in strangers.pages() if not page.startswith(strangers.FOREIGN_APPS)]
    assert len(patterns) == len(set(patterns))
    there_are = strangers.calls() | set(patterns) | set(ChatConsumer.commands)
    assert there_are ^ (set(CALLS) | set(PAGES) | set(FRAMES)) == set(), (
        "say in tests/security/strangers.py how B attacks A's object there, or why the route names none"
    )


async def test_t1_every_call_answers_as_if_it_did_not_exist(
    askers: list[Asker], theirs: Objects, servers: TestServers
) -> None:
    before = rows_of(servers, theirs["tenant"])
    nobodys = strangers.missing_like(theirs)
    for name, attack in CALLS.items():
        method, path = name.split(" ")
        for asker in askers:
            attempt = attack if isinstance(attack, Attack) else Attack()
            told = await asker.ask(method, filled(path, theirs), attempt, theirs)
            assert CANARY not in told, (name, asker.name)
            if isinstance(attack, Attack):
                assert told == await asker.ask(method, filled(path, nobodys), attempt, nobodys), name
                assert told.startswith("401" if asker.name == "signed out" else "404"), (name, told)
    assert rows_of(servers, theirs["tenant"]) == before


async def test_t1_every_call_in_a_strangers_tenant_answers_as_if_there_were_none(
    askers: list[Asker], theirs: Objects, servers: TestServers
) -> None:
    before = rows_of(servers, theirs["tenant"])
    nobodys = strangers.missing_like(theirs)
    for name, attack in CALLS.items():
        method, path = name.split(" ")
        body = attack.body if isinstance(attack, Attack) else None
        for asker in askers:
            told = [
                await asker.ask(method, filled(path, objects), Attack(body, "tenant={slug}"), objects)
                for objects in (theirs, nobodys)
            ]
            assert told[0] == told[1], name
            assert told[0].startswith("401" if asker.name == "signed out" else "404"), (name, told[0])
    assert rows_of(servers, theirs["tenant"]) == before


@pytest.mark.usefixtures("unhurried")
async def test_t1_every_page_answers_as_if_it_did_not_exist(
    askers: list[Asker], outsider: Person, theirs: Objects, servers: TestServers
) -> None:
    before = rows_of(servers, theirs["tenant"])
    nobodys = strangers.missing_like(theirs)
    own = {"slug": outsider.caller.tenant_slug}
    reached = set()
    for pattern in strangers.pages():
        if pattern == "accounts/logout/":
            continue  # names nobody else, and would end this test's session
        attack = PAGES.get(pattern)
        attempts = [Attack(), attack] if isinstance(attack, Attack) else [Attack()]
        for asker in askers[1:]:  # a key opens no page
            for attempt in attempts:
                for method in ("GET", "POST"):
                    for where in ({}, own):  # in A's tenant, and in B's own
                        paths = [path_of(pattern, objects | where) for objects in (theirs, nobodys)]
                        told = [
                            await asker.ask(method, path, attempt, objects | where)
                            for path, objects in zip(paths, (theirs, nobodys), strict=True)
                        ]
                        # A page of B's own that names no object changes with what B does there.
                        same = paths[0] != paths[1] or bool(attempt.query)
                        assert told[0] == told[1] or not same, (pattern, asker.name, method)
                        assert CANARY not in told[0], (pattern, asker.name, method)
                        reached.add((pattern, asker.name, bool(where), told[0][:3]))
    assert rows_of(servers, theirs["tenant"]) == before
    pages = [pattern for pattern in strangers.pages() if pattern.startswith("t/")]
    assert {
        status for page, who, mine, status in reached if page in pages and who == "by cookie" and not mine
    } == {"404"}
    assert {status for page, who, _mine, status in reached if page in pages and who == "signed out"} == {
        "302"
    }


async def test_t1_every_command_answers_as_if_it_did_not_exist(
    theirs: Objects, outsider: Person, sockets: AsyncExitStack, servers: TestServers
) -> None:
    before = rows_of(servers, theirs["tenant"])
    nobodys = strangers.missing_like(theirs)
    page = f"/t/{outsider.caller.tenant_slug}/live"
    for socket in (
        Socket.of(outsider),
        Socket.with_cookie(outsider),
        Socket.with_cookie(outsider, path=page),
    ):
        await enter(sockets, socket)
        for command, attack in FRAMES.items():
            if isinstance(attack, str):
                continue
            said = []
            for objects in (theirs, nobodys):
                await socket.tell(command, **filled(attack, objects))
                frame = await socket.hear()
                said.append({name: value for name, value in frame.items() if name not in ("id", "request")})
            assert said[0] == said[1], command
            assert said[0]["error"]["type"] == "not_found_error", command
        await socket.lives()
        assert await socket.receive_nothing(0.05)
    assert rows_of(servers, theirs["tenant"]) == before


async def test_t1_a_socket_in_a_strangers_tenant_is_as_one_in_none(theirs: Objects, outsider: Person) -> None:
    said = []
    for slug in (theirs["slug"], strangers.missing_like(theirs)["slug"]):
        for path in (f"/v1/chat/ws?tenant={slug}", f"/t/{slug}/live"):
            for socket in (Socket.of(outsider, path), Socket.with_cookie(outsider, path=path)):
                assert await socket.opened()
                said.append((path.split("/")[1], await socket.hear_error(), await socket.close_code()))
    assert said[:4] == said[4:]
    assert {(kind, code) for _path, kind, code in said} == {("not_found_error", 4404)}


@pytest.mark.usefixtures("unhurried")
async def test_t1_each_refusal_stands_in_the_strangers_own_audit(
    theirs: Objects, outsider: Person, sockets: AsyncExitStack, servers: TestServers
) -> None:
    """Who asked, for what, by which call. A's audit, as all of A's rows, stays as it is."""
    before = rows_of(servers, theirs["tenant"])
    by_key, expected = Asker("by key", AsyncClient(), outsider.key), []
    for name, attack in CALLS.items():
        if isinstance(attack, Attack):
            method, path = name.split(" ")
            await by_key.ask(method, filled(path, theirs), attack, theirs)
            named = re.findall(r"{(\w+)}", path)
            call = re.sub(r"{(\w+)}", r"<\1>", name)
            expected.append((call, "key", theirs[KINDS[named[0]]] if named else None))
    await by_key.ask("GET", "/v1/members", Attack(query="tenant={slug}"), theirs)
    expected.append(("?tenant=", "key", None))
    own = f"/t/{outsider.caller.tenant_slug}/c/{theirs['conversation']}/"
    for path, about in ((f"/t/{theirs['slug']}/members/", None), (own, theirs["conversation"])):
        assert (await outsider.async_client.get(path)).status_code == 404
        page = "t/<slug:slug>/c/<uuid:conversation_id>/" if about else "t/<slug:slug>/members/"
        expected.append((f"GET /{page}", "session", about))
    socket = Socket.of(outsider)
    await enter(sockets, socket)
    for command, frame in FRAMES.items():
        if isinstance(frame, dict):
            await socket.tell(command, **filled(frame, theirs))
            await socket.hear_error()
            about = theirs["permission" if command == "permission" else "conversation"]
            expected.append((f"socket {command}", "key", about))
    with servers.as_admin() as connection:
        noted = connection.execute(
            "SELECT details ->> 'call', via, about::text FROM tenants_auditevent WHERE tenant_id = %s"
            " AND act = 'access.refused' AND actor_id = %s ORDER BY number",
            [outsider.caller.tenant_id, outsider.caller.member_id],
        ).fetchall()
    assert noted == expected
    assert rows_of(servers, theirs["tenant"]) == before


# T2 -------------------------------------------------------------------------------------------------------------

# What a form or a body may be hoped to take beside its own fields.
HOPED = {
    "tenant": "tenant", "tenant_id": "tenant", "x-tenant": "slug", "slug": "slug",
    "owner_id": "member", "member": "member", "member_id": "member", "author": "member", "author_id": "member",
    "user": "user", "user_id": "user", "id": "credential", "pk": "credential", "credential_id": "credential",
    "conversation_id": "conversation", "turn": "turn", "turn_id": "turn", "assistant_id": "assistant",
}  # fmt: skip
POWERS = {
    "role": "owner",
    "is_staff": True,
    "is_superuser": True,
    "sealed_secret": "",
    "state": "x",
    "via": "x",
}


# What the calls take whose own bodies are no attack.
BODIES = {
    "POST /v1/credentials": {"name": "x", "kind": "api_key", "secret": "s"},
    "POST /v1/api-keys": {"name": "x"},
    "POST /v1/invitations": {"role": "viewer"},
}


def body_of(call: str) -> dict[str, Any]:
    attack = CALLS[call]
    return (attack.body if isinstance(attack, Attack) else BODIES.get(call)) or {}


def fields_of(call: str) -> Iterator[tuple[str, str]]:
    """Each field of a call that takes text, and whether it stands in its body or its query."""
    method, path = call.split(" ")
    document = strangers.document()
    operation = document["paths"][path][method.lower()]
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "query" and "string" in json.dumps(parameter["schema"]):
            yield parameter["name"], "query"
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = document["components"]["schemas"].get(
        content.get("schema", {}).get("$ref", "").split("/")[-1], {}
    )
    for name, kind in schema.get("properties", {}).items():
        if '"string"' in json.dumps(kind) and "date-time" not in json.dumps(kind):
            yield name, "body"


def uuids_of(servers: TestServers, tenant: str) -> set[str]:
    """All that the rows of a tenant refer to."""
    text = json.dumps(
        [
            value
            for rows in rows_of(servers, tenant).values()
            for row in rows
            for column, value in row.items()
            if column == "id"
            or (column.endswith("_id") and column != "client_id")  # that one is the client's
        ]
    )
    return set(re.findall(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", text))


@pytest.mark.usefixtures("unhurried")
async def test_t2_each_field_that_names_an_object_of_a_names_nothing(
    askers: list[Asker], theirs: Objects, outsider: Person, servers: TestServers
) -> None:
    """B's own objects in the path, A's in one field after the other: as if that had been anybody's id."""
    mine = await sync_to_async(strangers.objects_of)(outsider)
    before = rows_of(servers, theirs["tenant"])
    by_key, nobodys, tried = askers[0], strangers.missing_like(theirs), 0
    for call in CALLS:
        method, path = call.split(" ")
        for name, place in fields_of(call):
            for kind in ("conversation", "assistant", "permission", "credential", "tenant", "member", "slug"):
                told = []
                for value in (nobodys[kind], theirs[kind], nobodys[kind]):
                    sent = filled(body_of(call), mine) | ({name: value} if place == "body" else {})
                    query = f"{name}={value}" if place == "query" else ""
                    told.append(await by_key.ask(method, filled(path, mine), Attack(sent, query), mine))
                if kind == "slug":
                    told = [one.replace(theirs[kind], nobodys[kind]) for one in told]
                assert told[1] in (told[0], told[2]), (call, name, kind, told)
                assert f'"{CANARY}' not in told[1] or told[1] == told[0], (call, name)
                tried += 1
    assert tried > 50
    assert rows_of(servers, theirs["tenant"]) == before
    assert uuids_of(servers, mine["tenant"]) & set(theirs.values()) == set()


@pytest.mark.usefixtures("unhurried")
async def test_t2_fields_that_a_body_does_not_have_change_nothing(
    askers: list[Asker], theirs: Objects, outsider: Person, servers: TestServers
) -> None:
    mine = await sync_to_async(strangers.objects_of)(outsider)
    before = rows_of(servers, theirs["tenant"])
    hoped = {name: theirs[kind] for name, kind in HOPED.items()} | POWERS
    for call in CALLS:
        method, path = call.split(" ")
        if method in ("GET", "DELETE"):
            continue
        own = {name for name, _place in fields_of(call)}
        extra = {name: value for name, value in hoped.items() if name not in own}
        told = await askers[0].ask(
            method, filled(path, mine), Attack(extra | filled(body_of(call), mine)), mine
        )
        assert told[0] in "24", (call, told)
    after = rows_of(servers, theirs["tenant"])
    assert after == before
    assert uuids_of(servers, mine["tenant"]) & set(theirs.values()) == set()
    person = rows_of(servers, mine["tenant"])["tenants_membership"]
    assert {row["role"] for row in person if row["id"] == mine["member"]} == {"owner"}


@pytest.mark.usefixtures("unhurried")
async def test_t2_fields_that_a_form_does_not_have_change_nothing(
    askers: list[Asker], theirs: Objects, outsider: Person, servers: TestServers
) -> None:
    """Every form on every page of B's, with A's objects hidden in it."""
    mine = await sync_to_async(strangers.objects_of)(outsider)
    before = rows_of(servers, theirs["tenant"])
    client, sent = outsider.async_client, set()
    for pattern in PAGES:
        where = path_of(pattern, mine)
        page = await client.get(where)
        if page.status_code != 200 or b"<form" not in page.content:
            continue
        shown: Any = html.fromstring(page.content)
        for form in shown.xpath("//form[@method='post']"):
            action = form.get("action") or where
            if "logout" in action:
                continue
            given = {name: "x" for name in form.inputs.keys() if name}
            given |= {"kind": "api_key", "name": CANARY, "owner": "tenant"}
            extra = {name: theirs[kind] for name, kind in HOPED.items()} | POWERS | {"act": "default"}
            answer = await client.post(
                action, {name: [str(value)] for name, value in (extra | given).items()}
            )
            assert answer.status_code < 500, action
            sent.add(action)
    assert len(sent) >= 2
    assert rows_of(servers, theirs["tenant"]) == before
    assert uuids_of(servers, mine["tenant"]) & set(theirs.values()) == set()
