"""/v1/credentials over HTTP: the members', the tenant's, and the stranger's try at each."""

import json
from typing import Any
from uuid import uuid4

import pytest
from django.test import AsyncClient

from tenants.context import across_tenants
from tests.cast import House, Person

SECRET = "sk-canary-abcd1234"


class Api:
    """The API as one key sees it."""

    def __init__(self, key: str) -> None:
        self.headers = {"x-api-key": key} if key else {}

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        content = body if isinstance(body, str) else json.dumps(body) if body is not None else ""
        answer = await AsyncClient().generic(
            method, f"/v1{path}", content, content_type="application/json", headers=self.headers
        )
        text = answer.content.decode()
        assert SECRET not in text
        told: Any = json.loads(text) if text else None
        if answer.status_code >= 400:
            assert told["type"] == "error"
            assert told["error"]["message"]
            assert told["request_id"] == answer["request-id"]
            return answer.status_code, told["error"]["type"]
        return answer.status_code, told

    async def add(self, **given: Any) -> Any:
        status, made = await self.ask(
            "POST", "/credentials", {"name": "Ours", "kind": "api_key", "secret": SECRET} | given
        )
        assert status == 201
        return made


async def test_a_credential_is_kept_listed_read_changed_and_forgotten(owner: Person) -> None:
    api = Api(owner.key)
    made = await api.add(default=True)
    assert made == {
        "id": made["id"],
        "name": "Ours",
        "kind": "api_key",
        "last4": "1234",
        "default": True,
        "owner": "tenant",
        "state": "untried",
        "last_used_at": None,
    }
    assert await api.ask("GET", "/credentials") == (
        200,
        {"data": [made], "has_more": False, "first_id": made["id"], "last_id": made["id"]},
    )
    path = f"/credentials/{made['id']}"
    assert await api.ask("GET", path) == (200, made)
    status, changed = await api.ask("PATCH", path, {"name": "New name", "secret": "sk-next-5678"})
    assert (status, changed) == (200, made | {"name": "New name", "last4": "5678"})
    other = await api.add(name="Other", default=True)
    assert (await api.ask("GET", path))[1]["default"] is False
    assert (await api.ask("PATCH", path, {"default": True}))[1]["default"] is True
    assert (await api.ask("GET", f"/credentials/{other['id']}"))[1]["default"] is False
    assert (await api.ask("DELETE", path))[0] == 204
    assert await api.ask("GET", path) == (404, "not_found_error")


async def test_a_stranger_finds_nothing(owner: Person, stranger: Person) -> None:
    made = await Api(owner.key).add()
    api = Api(stranger.key)
    assert (await api.ask("GET", "/credentials"))[1]["data"] == []
    for credential in (made["id"], str(uuid4()), "no-uuid"):
        path = f"/credentials/{credential}"
        for method, body in (("GET", None), ("PATCH", {"name": "Mine"}), ("DELETE", None)):
            assert await api.ask(method, path, body) == (404, "not_found_error")
    assert await Api(owner.key).ask("GET", f"/credentials/{made['id']}") == (200, made)


async def test_a_body_that_names_somebody_else_changes_nothing(
    house: House, owner: Person, stranger: Person
) -> None:
    made = await Api(stranger.key).add(
        tenant=str(house.id), tenant_id=str(house.id), member=str(owner.caller.member_id), id=str(uuid4())
    )
    assert (await Api(owner.key).ask("GET", "/credentials"))[1]["data"] == []
    assert (await Api(stranger.key).ask("GET", "/credentials"))[1]["data"] == [made]


async def test_a_member_keeps_their_own_and_sees_the_tenants(
    owner: Person, member: Person, viewer: Person
) -> None:
    common = await Api(owner.key).add(name="Common")
    own = await Api(member.key).add(name="Own")
    assert (common["owner"], own["owner"]) == ("tenant", "member")
    names = [one["name"] for one in (await Api(member.key).ask("GET", "/credentials"))[1]["data"]]
    assert sorted(names) == ["Common", "Own"]
    assert [one["name"] for one in (await Api(owner.key).ask("GET", "/credentials"))[1]["data"]] == ["Common"]
    refused = (403, "permission_error")
    assert await Api(member.key).ask("DELETE", f"/credentials/{common['id']}") == refused
    body = {"name": "X", "kind": "api_key", "secret": SECRET}
    assert await Api(member.key).ask("POST", "/credentials", body | {"owner": "tenant"}) == refused
    assert await Api(viewer.key).ask("POST", "/credentials", body) == refused


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        {},
        {"name": "X"},
        {"name": "X", "kind": "api_key"},
        {"name": "X", "kind": "nonsense", "secret": "s"},
        {"name": 5, "kind": "api_key", "secret": "s"},
        {"name": "X", "kind": "api_key", "secret": ["s"]},
        {"name": "X", "kind": "api_key", "secret": "s", "owner": "everybody"},
        {"name": "X\x00", "kind": "api_key", "secret": "s"},
        {"name": "X", "kind": "endpoint", "secret": "s", "base_url": "http://169.254.169.254/latest"},
    ],
)
async def test_a_bad_body_is_a_clear_error(owner: Person, body: object) -> None:
    assert await Api(owner.key).ask("POST", "/credentials", body) == (400, "invalid_request_error")


async def test_without_a_key_there_is_nothing(database: None) -> None:
    for method, path in (
        ("GET", "/credentials"),
        ("POST", "/credentials"),
        ("GET", f"/credentials/{uuid4()}"),
    ):
        assert await Api("").ask(method, path, {}) == (401, "authentication_error")
        assert await Api("parley_wrong").ask(method, path, {}) == (401, "authentication_error")


async def test_a_cookie_changes_nothing_for_a_foreign_page(owner: Person) -> None:
    body = json.dumps({"name": "X", "kind": "api_key", "secret": SECRET})
    client = AsyncClient()
    client.cookies.load(await across_tenants(lambda: owner.cookie))
    assert (await client.get("/v1/credentials")).status_code == 200

    async def post(**headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await client.post("/v1/credentials", body, content_type="application/json", headers=named)
        return answer.status_code

    assert await post(origin="https://evil.example") == 403
    assert await post(origin="null") == 403
    assert await post(sec_fetch_site="cross-site") == 403
    assert await post(sec_fetch_site="same-site") == 403
    assert await post(sec_fetch_site="same-origin", origin="http://testserver") == 201
