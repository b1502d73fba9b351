"""The audit: what is noted, by whom it is read, and that nobody changes it."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import ProgrammingError, connection, transaction
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from tenants import members
from tenants.acts import Act
from tenants.audit import Chain, chain, note_refusal
from tenants.context import tenant_context
from tenants.drafts import CredentialDraft
from tenants.invitations import accept, invite, revoke
from tenants.models import ApiKey, AuditEvent, Credential, Membership, Tenant
from tenants.roles import Role
from tenants.rotation import change_key, wrap_anew
from tests.cast import House, Person, found_house, someone
from tests.conversations.stage import Hands, say
from tests.servers import TestServers
from tests.stack import eventually

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/audit.md"


def noted(house: House, act: Act | None = None) -> list[AuditEvent]:
    """The events of the house in order, those of one act or all; without sign-ins, which come when they come."""
    with tenant_context(house.id):
        rows = AuditEvent.objects.order_by("number")
        return list(rows.exclude(act__startswith="session.") if act is None else rows.filter(act=act))


def last(house: House) -> AuditEvent:
    return noted(house)[-1]


def told(event: AuditEvent) -> tuple[str, str, UUID | None, UUID | None, dict[str, Any]]:
    return event.act, event.via, event.actor_id, event.about, event.details


def read(person: Person, **query: str) -> Any:
    return Client().get("/v1/audit", query, headers={"x-api-key": person.key})


# What is noted ------------------------------------------------------------------------------------------------


def test_founding_a_tenant_begins_its_audit(house: House) -> None:
    founded, joined, *_later = noted(house)
    assert told(founded) == ("tenant.founded", "command", None, None, {})
    assert told(joined) == ("member.added", "command", None, house.owner.membership.id, {"role": "owner"})
    assert [founded.number, joined.number] == [1, 2]


def test_who_joins_changes_role_and_goes_is_noted(house: House) -> None:
    owner, guest = house.owner, someone("guest")
    with tenant_context(house.id):
        made, token = invite(owner.caller, "member")
    assert told(last(house)) == (
        "invitation.made", "session", owner.caller.member_id, made.id, {"role": "member", "for_one_address": False}
    )  # fmt: skip
    accept(token, guest)
    with tenant_context(house.id):
        member = Membership.objects.get(user=guest)
    assert told(last(house)) == ("member.joined", "session", member.id, member.id, {"role": "member"})
    with tenant_context(house.id):
        members.change_role(owner.caller, member.id, "viewer")
    changed = {"role": "viewer", "former": "member"}
    assert told(last(house)) == (
        "member.role_changed", "session", owner.caller.member_id, member.id, changed
    )  # fmt: skip
    with tenant_context(house.id):
        members.remove(owner.caller, member.id)
    assert told(last(house))[:4] == ("member.removed", "session", owner.caller.member_id, member.id)
    with tenant_context(house.id):
        revoke(owner.caller, invite(owner.caller, "viewer")[0].id)
        members.remove(house.viewer.caller, house.viewer.membership.id)
    assert [event.act for event in noted(house)[-4:]] == [
        "invitation.made", "invitation.revoked", "member.added", "member.left"
    ]  # fmt: skip


def test_what_becomes_of_keys_and_credentials_is_noted_over_every_mouth(owner: Person, house: House) -> None:
    by_key: Any = {"content_type": "application/json", "headers": {"x-api-key": owner.key}}
    client, pages = Client(), f"/t/{house.slug}"
    key = client.post("/v1/api-keys", {"name": "a"}, **by_key).json()["id"]
    client.patch(f"/v1/api-keys/{key}", {"expires_at": "2031-01-01T00:00:00Z"}, **by_key)
    rotated = client.post(f"/v1/api-keys/{key}/rotate", {"overlap_seconds": 60}, **by_key).json()["id"]
    client.delete(f"/v1/api-keys/{rotated}", **by_key)
    owner.client.post(f"{pages}/api-keys/{key}/", {"act": "revoke"})
    body = {"name": "mine", "kind": "api_key", "secret": "sk-1234567"}
    credential = client.post("/v1/credentials", body, **by_key).json()["id"]
    client.patch(f"/v1/credentials/{credential}", {"secret": "sk-7654321", "default": True}, **by_key)
    owner.client.post(f"{pages}/credentials/{credential}/", {"act": "default"})
    owner.client.post(f"{pages}/credentials/{credential}/", {"act": "delete", "name": "mine"})
    events = [(event.act, event.via, str(event.about)) for event in noted(house)[3:]]
    assert events == [
        ("api_key.made", "key", key),
        ("api_key.changed", "key", key),
        ("api_key.made", "key", rotated),
        ("api_key.rotated", "key", key),
        ("api_key.revoked", "key", rotated),
        ("api_key.revoked", "session", key),
        ("credential.made", "key", credential),
        ("credential.changed", "key", credential),
        ("credential.changed", "session", credential),
        ("credential.deleted", "session", credential),
    ]
    with tenant_context(house.id):
        assert noted(house)[3].key_id == ApiKey.objects.get().id
    assert noted(house)[10].details == {"changed": ["default", "secret"]}


def test_what_becomes_of_conversations_is_noted(owner: Person, house: House) -> None:
    submitted = say(owner.caller)
    hands, request = Hands.claiming(submitted), str(uuid4())
    asked = {"request": request, "tool_use": "t", "name": "Bash", "input": {}, "title": "", "choices": []}
    hands.write(hands.row("permission.requested", asked))
    by_key: Any = {"content_type": "application/json", "headers": {"x-api-key": owner.key}}
    client, path = Client(), f"/v1/conversations/{submitted.conversation}"
    client.post(f"/v1/permissions/{request}", {"decision": "deny"}, **by_key)
    client.patch(path, {"shared": True}, **by_key)
    client.patch(path, {"shared": False}, **by_key)
    client.patch(path, {"title": "no act of the audit"}, **by_key)
    assert client.delete(path, **by_key).status_code == 204
    events = [(event.act, event.about, event.details) for event in noted(house)[3:]]
    assert events == [
        ("permission.answered", submitted.conversation, {"decision": "deny"}),
        ("conversation.shared", submitted.conversation, {}),
        ("conversation.unshared", submitted.conversation, {}),
        ("conversation.deleted", submitted.conversation, {"shared": False}),
    ]
    with tenant_context(house.id):
        say(house.member.caller)
        members.remove(owner.caller, house.member.membership.id)
    owner.client.post(
        f"/t/{house.slug}/members/{house.member.membership.id}/", {"act": "clear", "name": "Member"}
    )
    assert told(last(house))[3:] == (house.member.membership.id, {"conversations": 1})


def test_settings_of_the_tenant_are_noted_with_what_they_became(owner: Person, house: House) -> None:
    owner.client.post(f"/t/{house.slug}/settings/", {"act": "tier", "least_tier": "landlock"})
    assert last(house).act == "tenant.changed"
    assert last(house).details["changed"]["least_tier"] == "landlock"
    call_command("set_budget", house.slug, "12.50", stdout=StringIO())
    assert told(last(house)) == (
        "tenant.changed",
        "command",
        None,
        house.id,
        {"changed": {"budget_usd": "12.50"}},
    )
    wrap_anew(house.id)
    assert last(house).act == "tenant.changed", "nothing was to be done"
    change_key(house.id)
    assert told(last(house))[::4] == ("tenant.keys_rotated", {"key": "tenant"})


def test_who_operates_the_platform_is_noted(house: House) -> None:
    operator = found_house("platform").owner
    operator.user.is_staff = True
    operator.user.save()
    operator.client.post(reverse("admin:choose_tenant", args=[house.id]))
    assert told(last(house)) == ("operator.entered", "operator", operator.user.id, None, {})
    change = reverse("admin:tenants_tenant_change", args=[house.id])
    answer = operator.client.post(change, {"name": "Other Name", "least_tier": "", "allowed_models": ""})
    assert answer.status_code == 302
    assert told(last(house))[::4] == ("tenant.changed", {"changed": {"name": None}})
    person = house.member
    change = reverse("admin:tenants_user_change", args=[person.user.id])
    assert operator.client.post(change, {"name": "x"}).status_code == 302
    assert told(last(house)) == (
        "account.changed", "operator", operator.user.id, person.membership.id, {"is_active": False}
    )  # fmt: skip


def of_account(house: House) -> list[str]:
    """What was noted of sessions and accounts, by whom it is."""
    with tenant_context(house.id):
        rows = AuditEvent.objects.filter(actor_id__isnull=False).order_by("number")
        return [row.act for row in rows if row.act.startswith(("session", "account"))]


def test_a_sign_in_is_noted_where_the_session_acts_and_nowhere_else(house: House, settings: Settings) -> None:
    settings.ACCOUNT_RATE_LIMITS = False
    person, other = house.member, found_house("other")
    other.join(Role.VIEWER, person.user)
    client, sent = Client(), {"login": person.user.email.upper(), "password": person.password}
    client.post("/accounts/login/", sent)
    for _ in range(2):
        assert client.get(f"/t/{house.slug}/members/").status_code == 200
    assert of_account(house) == ["session.begun"]
    client.post("/accounts/logout/")
    assert of_account(house) == ["session.begun", "session.ended"]
    assert of_account(other) == []


def test_what_concerns_an_account_is_noted_in_each_tenant_of_it(house: House, settings: Settings) -> None:
    settings.ACCOUNT_RATE_LIMITS = False
    person, other = house.member, found_house("other")
    other.join(Role.VIEWER, person.user)
    client, sent = Client(), {"login": person.user.email.upper(), "password": person.password}
    client.post("/accounts/login/", sent | {"password": "guess"})
    eventually(lambda: of_account(house) == ["session.refused"])
    client.post("/accounts/login/", sent)
    new = "another long word"
    words = {"oldpassword": person.password, "password1": new, "password2": new}
    assert client.post("/accounts/password/change/", words).status_code == 302
    eventually(lambda: of_account(house) == ["session.refused", "account.password_changed"])
    eventually(lambda: of_account(other) == of_account(house))
    client.post("/accounts/login/", {"login": f"{uuid4()}@example.org", "password": "guess"})
    assert len(of_account(house)) == 2


def test_an_act_that_fails_is_not_noted(house: House) -> None:
    before = len(noted(house))
    draft = CredentialDraft.checked(name="x", kind="api_key", secret="sk-123456789")
    with tenant_context(house.id):
        Credential.objects.create_for(house.owner.caller, draft)
        transaction.set_rollback(True)
    assert len(noted(house)) == before


def test_refusals_of_one_member_are_kept_up_to_so_many_a_minute(
    owner: Person, house: House, settings: Settings
) -> None:
    settings.AUDIT_REFUSALS_PER_MINUTE = 3
    for _ in range(5):
        assert Client().get(f"/v1/members/{uuid4()}", headers={"x-api-key": owner.key}).status_code == 404
    assert len(noted(house, Act.ACCESS_REFUSED)) == 3
    note_refusal(house.admin.caller, "GET /elsewhere", 403)
    assert told(last(house))[4] == {"call": "GET /elsewhere", "status": 403}


def test_no_word_of_a_person_stands_in_it(owner: Person, house: House) -> None:
    """Whatever one may write in a form or a call: names, addresses, titles, secrets."""
    canary = "canary-4d1a"
    by_key: Any = {"content_type": "application/json", "headers": {"x-api-key": owner.key}}
    client = Client()
    client.post("/v1/api-keys", {"name": canary}, **by_key)
    client.post("/v1/credentials", {"name": canary, "kind": "api_key", "secret": canary}, **by_key)
    client.post("/v1/invitations", {"role": "viewer", "email": f"{canary}@example.org"}, **by_key)
    client.get(f"/v1/members/{canary}?tenant={house.slug}&x={canary}", **by_key)
    client.get(f"/v1/conversations/{canary}", **by_key)
    found = json.dumps([told(event) for event in noted(house)], default=str)
    assert "access.refused" in found
    assert "invitation.made" in found
    assert canary not in found
    assert owner.user.email not in found


def test_the_document_and_the_words_of_pages_name_every_act() -> None:
    rows = re.findall(r"^\| (`[^|]+`) \|", DOCUMENT.read_text(), re.MULTILINE)
    assert [act for row in rows for act in re.findall(r"`([\w.]+)`", row)] == Act.values
    assert len({str(act.label) for act in Act}) == len(Act)


# Who reads it -------------------------------------------------------------------------------------------------


def test_admins_read_it_page_by_page_newest_first(owner: Person, house: House) -> None:
    with tenant_context(house.id):
        for number in range(5):
            AuditEvent.objects.note(house.id, Act.CONVERSATION_SHARED, owner.caller, uuid4(), number=number)
    seen: list[int] = []
    query = {"act": "conversation.shared", "limit": "2"}
    while True:
        page = read(owner, **query).json()
        seen += [event["details"]["number"] for event in page["data"]]
        assert page["first_id"] == page["data"][0]["id"]
        if not page["has_more"]:
            break
        query["after_id"] = page["last_id"]
    assert seen == [4, 3, 2, 1, 0]
    event = read(owner, actor=str(owner.caller.member_id)).json()["data"][0]
    assert event.keys() == {
        "id", "number", "at", "act", "via", "actor", "api_key", "about", "details", "digest"
    }  # fmt: skip
    assert len(event["digest"]) == 64
    assert read(owner, actor=str(uuid4())).json()["data"] == []


@pytest.mark.parametrize(
    ("query", "status"),
    [({"act": "no.act"}, 400), ({"limit": "0"}, 400), ({"limit": "many"}, 400), ({"actor": "me"}, 404)],
)
def test_what_makes_no_sense_is_told(owner: Person, query: dict[str, str], status: int) -> None:
    assert read(owner, **query).status_code == status


def test_members_do_not_read_it_nor_keys_without_the_scope(
    member: Person, viewer: Person, admin: Person
) -> None:
    assert read(member).status_code == read(viewer).status_code == 403
    assert read(admin).status_code == 200
    narrow = admin.key_for(frozenset({"read", "write"}))
    assert Client().get("/v1/audit", headers={"x-api-key": narrow}).status_code == 403


def test_a_stranger_reads_their_own(stranger: Person, house: House) -> None:
    ids = {event["id"] for event in read(stranger).json()["data"]}
    assert ids
    assert ids & {str(event.id) for event in noted(house)} == set()


# Nobody changes it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tenants_auditevent SET act = 'member.left'",
        "DELETE FROM tenants_auditevent",
        "TRUNCATE tenants_auditevent",
        "INSERT INTO tenants_auditevent (id, tenant_id, act, via, details, number)"
        " SELECT gen_random_uuid(), tenant_id, act, via, details, 1 FROM tenants_auditevent LIMIT 1",
        "INSERT INTO tenants_auditevent (id, tenant_id, act, via, details, at)"
        " SELECT gen_random_uuid(), tenant_id, act, via, details, now() - interval '1 day'"
        " FROM tenants_auditevent LIMIT 1",
        "ALTER TABLE tenants_auditevent DISABLE TRIGGER chain_audit",
    ],
)
def test_the_application_changes_and_forges_no_event(house: House, statement: str) -> None:
    with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"), tenant_context(house.id):
        connection.cursor().execute(statement)


def test_events_of_many_at_once_are_numbered_without_a_gap(house: House) -> None:
    other = found_house("other")

    def work(number: int) -> None:
        of = house if number % 3 else other
        try:
            with tenant_context(of.id):
                AuditEvent.objects.note(of.id, Act.CONVERSATION_SHARED)
                AuditEvent.objects.note(of.id, Act.CONVERSATION_UNSHARED)
                if number % 10 == 0:
                    transaction.set_rollback(True)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(60)))
    for of in (house, other):
        events = noted(of)
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        with tenant_context(of.id):
            assert chain() == Chain(len(events), bytes(events[-1].digest or b"").hex(), None)
    assert len(noted(house)) + len(noted(other)) == 4 + 2 * 54


@pytest.mark.parametrize(
    ("forgery", "found_at"),
    [
        ('UPDATE tenants_auditevent SET details = \'{"role": "viewer"}\' WHERE id = %s', 3),
        ("UPDATE tenants_auditevent SET at = at - interval '1 hour' WHERE id = %s", 3),
        ("UPDATE tenants_auditevent SET actor_id = NULL WHERE id = %s", 3),
        ("UPDATE tenants_auditevent SET number = 100 WHERE id = %s", 3),
        ("DELETE FROM tenants_auditevent WHERE id = %s", 3),
    ],
)
def test_what_a_superuser_changed_is_found(
    house: House, servers: TestServers, forgery: str, found_at: int
) -> None:
    with tenant_context(house.id):
        for _ in range(3):
            AuditEvent.objects.note(house.id, Act.MEMBER_LEFT, house.owner.caller, role="owner")
    printed = StringIO()
    call_command("verify_audit", house.slug, stdout=printed)
    assert printed.getvalue().split()[:2] == [house.slug, "5"]
    with servers.as_admin() as admin:
        admin.execute(forgery.encode(), [noted(house)[2].id])
    with pytest.raises(CommandError, match=f"{house.slug}: event {found_at} "):
        call_command("verify_audit", house.slug, stdout=StringIO())
    with tenant_context(house.id):
        assert chain().broken_at == found_at


def test_an_event_can_be_added_to_no_other_tenants_audit(house: House, stranger: Person) -> None:
    with (
        pytest.raises(ProgrammingError, match="row-level security"),
        tenant_context(stranger.caller.tenant_id),
    ):
        AuditEvent.objects.note(house.id, Act.MEMBER_LEFT)


def test_it_goes_with_its_tenant(house: House, servers: TestServers) -> None:
    with tenant_context(house.id):
        Tenant.objects.get().delete()
    with servers.as_admin() as admin:
        query = "SELECT count(*) FROM tenants_auditevent WHERE tenant_id = %s"
        row = admin.execute(query, [house.id]).fetchone()
    assert row == (0,)
