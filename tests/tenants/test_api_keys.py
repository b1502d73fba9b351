"""API keys over the API and on their page: who makes, sees, changes, rotates and revokes them."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from tenants.acts import Act
from tenants.authentication import caller_for_key
from tenants.context import tenant_context
from tenants.errors import AuthenticationError
from tenants.models import ApiKey, AuditEvent, digest_of
from tenants.roles import Role
from tests.cast import House

READ_WRITE = frozenset({"read", "write"})


def call(key: str, method: str, path: str = "", body: object = None, status: int = 200) -> Any:
    sent = json.dumps(body or {})
    answer = Client().generic(
        method, f"/v1/api-keys{path}", sent, "application/json", headers={"x-api-key": key}
    )
    assert answer.status_code == status, answer.content
    return answer.json() if answer.content else None


def test_a_key_is_told_once_and_only_its_hash_is_kept(house: House) -> None:
    made = call(house.member.key, "POST", "", {"name": "Report", "scopes": ["read"]}, 201)
    assert made["key"].startswith(f"parley_{made['prefix']}_")
    assert (made["name"], made["scopes"], made["expires_at"]) == ("Report", ["read"], None)
    with tenant_context(house.id):
        assert bytes(ApiKey.objects.get(id=made["id"]).digest) == digest_of(made["key"])
    for shown in (call(house.member.key, "GET"), call(house.member.key, "GET", f"/{made['id']}")):
        assert made["key"] not in str(shown) and made["prefix"] in str(shown)
    assert call(made["key"], "GET")["data"][0]["last_used_at"]


def test_a_key_makes_no_key_with_more_than_it_has(house: House) -> None:
    for scopes in ({"read"}, READ_WRITE):
        lesser = house.member.key_for(frozenset(scopes))
        call(lesser, "POST", "", {"name": "More"}, 403)
    soon = timezone.now() + timedelta(hours=1)
    short = call(house.member.key, "POST", "", {"name": "Short", "expires_at": soon.isoformat()}, 201)["key"]
    late = (soon + timedelta(days=9)).isoformat()
    for body in ({"name": "Longer"}, {"name": "Longer", "expires_at": late}):
        made = call(short, "POST", "", body, 201)
        assert datetime.fromisoformat(made["expires_at"]) == soon
        changed = call(short, "PATCH", f"/{made['id']}", {"expires_at": None})
        assert datetime.fromisoformat(changed["expires_at"]) == soon
    with tenant_context(house.id):
        _narrow, text = ApiKey.objects.issue(house.member.membership, "Narrow", ["read", "admin"])
    call(text, "POST", "", {"name": "Wider", "scopes": ["write"]}, 403)
    assert call(text, "POST", "", {"name": "Same"}, 201)["scopes"] == ["admin", "read"]
    [wide, *_rest] = [row for row in call(house.member.key, "GET")["data"] if "write" in row["scopes"]]
    call(text, "POST", f"/{wide['id']}/rotate", {}, 403)


def chain_of(house: House) -> tuple[Any, Any, Any]:
    """A key, one that was made with it, and one that was made with that."""
    first = call(house.member.key, "POST", "", {"name": "First"}, 201)
    second = call(first["key"], "POST", "", {"name": "Second"}, 201)
    third = call(second["key"], "POST", f"/{second['id']}/rotate", {}, 201)
    return first, second, third


def names_of(house: House) -> set[str]:
    return {f"{row['name']} {row['prefix']}" for row in call(house.member.key, "GET")["data"]}


def test_a_key_is_revoked_with_all_that_were_made_with_it_on_request(house: House) -> None:
    first, second, third = chain_of(house)
    assert [row["made_by"] for row in (second, third)] == [first["id"], second["id"]]
    before = names_of(house)
    call(house.member.key, "DELETE", f"/{second['id']}", status=204)
    assert call(third["key"], "GET", f"/{third['id']}")["made_by"] == first["id"]
    call(house.member.key, "DELETE", f"/{first['id']}?with_made=true", status=204)
    for made in (first, second, third):
        call(made["key"], "GET", status=401)
    gone = {f"{made['name']} {made['prefix']}" for made in (first, second, third)}
    assert before - names_of(house) == gone
    with tenant_context(house.id):
        revoked = AuditEvent.objects.filter(act=Act.API_KEY_REVOKED).values_list("about", flat=True)
        assert {str(one) for one in revoked} == {made["id"] for made in (first, second, third)}


def test_the_page_names_what_was_made_with_a_key_and_revokes_it_too_unless_told_otherwise(
    house: House,
) -> None:
    first, second, third = chain_of(house)
    page = house.member.client.get(f"/t/{house.slug}/api-keys/").content.decode()
    assert page.count("too:") == 3 and 'name="with_made" checked' in page
    path = f"/t/{house.slug}/api-keys"
    house.member.client.post(f"{path}/{second['id']}/", {"act": "revoke"})
    call(third["key"], "GET")
    house.member.client.post(f"{path}/{first['id']}/", {"act": "revoke", "with_made": "on"})
    call(third["key"], "GET", status=401)


def test_a_key_that_was_just_revoked_makes_no_other(house: House) -> None:
    made = call(house.member.key, "POST", "", {"name": "Short-lived"}, 201)
    caller = caller_for_key(made["key"])
    call(house.member.key, "DELETE", f"/{made['id']}", status=204)
    with tenant_context(house.id), pytest.raises(AuthenticationError):
        ApiKey.objects.issue_for(caller, "Late", {"read"})


def test_members_manage_their_own_and_admins_see_and_revoke_all(house: House) -> None:
    theirs = call(house.member.key, "POST", "", {"name": "Mine"}, 201)
    another = house.join(Role.MEMBER)
    assert theirs["id"] not in str(call(another.key, "GET"))
    call(another.key, "GET", f"/{theirs['id']}", status=404)
    call(another.key, "DELETE", f"/{theirs['id']}", status=404)
    [seen] = [row for row in call(house.admin.key, "GET")["data"] if row["id"] == theirs["id"]]
    assert (seen["email"], seen["prefix"]) == (house.member.user.email, theirs["prefix"])
    for method, path in (("PATCH", ""), ("POST", "/rotate")):
        call(house.admin.key, method, f"/{theirs['id']}{path}", {}, 403)
    call(house.admin.key, "DELETE", f"/{theirs['id']}", status=204)
    call(theirs["key"], "GET", status=401)


def test_what_is_wrong_is_told(house: House) -> None:
    past = (timezone.now() - timedelta(seconds=1)).isoformat()
    for body in ({"name": ""}, {"name": "x" * 81}, {"name": "x", "expires_at": past}):
        call(house.member.key, "POST", "", body, 400)
    call(house.member.key, "POST", "", {"name": "x", "scopes": ["all"]}, 403)
    call(house.viewer.key, "POST", "", {"name": "x"}, 403)


def test_rotation_lets_both_work_until_the_overlap_ends(house: House) -> None:
    until = (timezone.now() + timedelta(days=30)).isoformat()
    old = call(house.member.key, "POST", "", {"name": "CI", "scopes": ["write"], "expires_at": until}, 201)
    new = call(house.member.key, "POST", f"/{old['id']}/rotate", {"overlap_seconds": 600}, 201)
    assert (new["name"], new["scopes"]) == (old["name"], old["scopes"])
    assert datetime.fromisoformat(new["expires_at"]) >= datetime.fromisoformat(until)
    for key in (old["key"], new["key"]):
        call(key, "GET")
    ends = datetime.fromisoformat(call(house.member.key, "GET", f"/{old['id']}")["expires_at"])
    assert timedelta(0) < ends - timezone.now() <= timedelta(seconds=600)
    last = call(house.member.key, "POST", f"/{new['id']}/rotate", {"overlap_seconds": 0}, 201)
    call(new["key"], "GET", status=401)
    call(last["key"], "GET")
    call(house.member.key, "POST", f"/{new['id']}/rotate", {}, 409)
    call(house.member.key, "POST", f"/{last['id']}/rotate", {"overlap_seconds": -1}, 400)


# The page -------------------------------------------------------------------------------------------------------


def of_member(house: House) -> list[ApiKey]:
    with tenant_context(house.id):
        return list(ApiKey.objects.filter(member=house.member.membership).order_by("created_at"))


def test_the_page_shows_a_new_key_once_and_nothing_keeps_it(house: House) -> None:
    path = f"/t/{house.slug}/api-keys/"
    answer = house.member.client.post(path, {"name": "Report", "rights": "write", "days": "30"})
    text = answer.content.decode()
    [key] = of_member(house)
    plain = text.partition("<pre>")[2].partition("</pre>")[0]
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    assert bytes(key.digest) == digest_of(plain) and set(key.scopes) == READ_WRITE
    assert key.expires_at and timedelta(days=29) < key.expires_at - timezone.now() < timedelta(days=30)
    again = house.member.client.get(path).content.decode()
    assert plain not in again and key.prefix in again and "never used" in again


def test_the_page_rotates_and_revokes(house: House) -> None:
    path = f"/t/{house.slug}/api-keys/"
    house.member.client.post(path, {"name": "CI", "rights": "read", "days": ""})
    [old] = of_member(house)
    answer = house.member.client.post(f"{path}{old.id}/", {"act": "rotate", "overlap": "3600"})
    assert answer.status_code == 200 and b"<pre>parley_" in answer.content
    old, new = of_member(house)
    assert old.expires_at and new.expires_at is None
    assert house.owner.client.post(f"{path}{new.id}/", {"act": "rotate", "overlap": "0"}).status_code == 403
    assert house.owner.client.post(f"{path}{new.id}/", {"act": "revoke"}).status_code == 302
    assert of_member(house) == [old]
    assert house.member.client.post(f"{path}{old.id}/", {"act": "rotate", "overlap": "1"}).status_code == 400


def test_who_may_not_keep_keys_makes_none(house: House) -> None:
    person = house.viewer
    path = f"/t/{house.slug}/api-keys/"
    assert b"does not allow API keys" in person.client.get(path).content
    assert person.client.post(path, {"name": "x", "rights": "read", "days": ""}).status_code == 403
