"""The API's root: who calls, in which tenant, from which page; and one shape for everything that is refused."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.db import connection
from django.test import AsyncClient, Client

from config.api import api
from tenants.roles import Role
from tests.cast import House, Person, found_house
from tests.conversations.stage import say

HERE = "http://testserver"


def ask(
    method: str,
    path: str,
    body: bytes = b"",
    *,
    cookies: Client | None = None,
    content_type: str = "application/json",
    **headers: str,
) -> Any:
    """One call through the ASGI handler; a header's name is written with underscores."""

    async def call() -> Any:
        client = AsyncClient()
        if cookies is not None:
            client.cookies = cookies.cookies
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.generic(method, path, body, content_type, headers=named)

    return async_to_sync(call)()


def refusal(answer: Any) -> tuple[int, str]:
    """Status and type of an answer that has the shape of all errors."""
    assert answer.headers["content-type"] == "application/json", answer.content
    said = answer.json()
    assert said.keys() == {"type", "error", "request_id"}
    assert said["type"] == "error"
    assert said["error"].keys() == {"type", "message"}
    assert said["error"]["message"]
    assert said["request_id"] == answer.headers["request-id"]
    return answer.status_code, said["error"]["type"]


# Lists --------------------------------------------------------------------------------------------------------

NO_LIMITS = ("", "0", "-1", "1.5", "many", "NaN", "\x00", "9" * 30, "9" * 5000)
NOBODYS = ("last", "-1", "\x00", "9" * 5000, str(uuid4()))


def lists() -> dict[str, set[str]]:
    """Each call that takes something after its `?`, found in the API itself, with what it takes."""
    gets = {path: ways["get"] for path, ways in api.get_openapi_schema()["paths"].items() if "get" in ways}
    taken = {
        path: {one["name"] for one in get.get("parameters", []) if one["in"] == "query"}
        for path, get in gets.items()
    }
    return {path: names for path, names in taken.items() if names}


def with_query(path: str, **query: str) -> str:
    return f"{path}?{urlencode(query)}"


def test_the_lists_are_found() -> None:
    assert {"after_id", "limit", "q"} <= lists()["/v1/conversations"]
    assert all("limit" in taken for taken in lists().values() if "after_id" in taken)


def test_no_page_of_a_list_begins_or_ends_where_it_can_not(owner: Person, stranger: Person) -> None:
    say(stranger.caller), say(owner.caller)
    for path, taken in lists().items():
        if "limit" not in taken:
            continue
        last = ask("GET", with_query(path, limit="1"), x_api_key=stranger.key).json()["last_id"]
        assert last, path
        for limit in NO_LIMITS:
            refused = ask("GET", with_query(path, limit=limit), x_api_key=owner.key)
            assert refusal(refused) == (400, "invalid_request_error"), (path, limit[:20])
        for after in (*NOBODYS, last):
            answer = ask("GET", with_query(path, after_id=after), x_api_key=owner.key)
            assert refusal(answer) == (404, "not_found_error"), (path, after[:20])


def test_whatever_else_a_list_is_asked_for_is_answered_or_refused(owner: Person) -> None:
    where = str(say(owner.caller).conversation)
    for path, taken in lists().items():
        for name in taken:
            for value in {*NO_LIMITS, *NOBODYS}:
                asked = with_query(path.replace("{conversation}", where), **{name: value})
                answer = ask("GET", asked, x_api_key=owner.key)
                assert answer.status_code in (200, 400, 404), (path, name, value[:20])
                if answer.status_code > 200:
                    refusal(answer)


# One shape ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/v1/", "/v1/nothing", "/v1/conversations/", "/v1/chat", "/v1/a/b/c", "/v1/%00"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_paths_that_there_are_not(owner: Person, method: str, path: str) -> None:
    assert refusal(ask(method, path, x_api_key=owner.key)) == (404, "not_found_error")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/stream", {"POST"}),
        ("PUT", "/v1/conversations", {"GET", "POST"}),
        ("DELETE", "/v1/conversations", {"GET", "POST"}),
        ("POST", "/v1/conversations/00000000-0000-4000-8000-000000000000/events", {"GET"}),
        ("OPTIONS", "/v1/credentials", {"GET", "POST"}),
        ("TRACE", "/v1/credentials", {"GET", "POST"}),
    ],
)
def test_methods_that_a_path_does_not_take(owner: Person, method: str, path: str, allowed: set[str]) -> None:
    answer = ask(method, path, x_api_key=owner.key)
    assert refusal(answer) == (405, "invalid_request_error")
    assert set(answer.headers["allow"].split(", ")) == allowed


@pytest.mark.usefixtures("database")
def test_an_unknown_host_is_refused_in_the_same_shape() -> None:
    assert refusal(ask("GET", "/v1/conversations", host="elsewhere.example"))[0] == 400


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[]", b"a=1", b""])
@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", ""]
)
def test_a_body_that_is_no_object(owner: Person, body: bytes, content_type: str) -> None:
    answer = ask("POST", "/v1/chat/stream", body, content_type=content_type, x_api_key=owner.key)
    assert refusal(answer) == (400, "invalid_request_error")


@pytest.mark.parametrize("content_type", ["text/plain", "application/json; charset=utf-8", ""])
def test_a_body_is_json_whatever_it_is_called(owner: Person, content_type: str) -> None:
    answer = ask("POST", "/v1/conversations", b"{}", content_type=content_type, x_api_key=owner.key)
    assert answer.status_code == 201


def test_a_body_beyond_the_limit_is_too_large(owner: Person) -> None:
    assert settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    body = b" " * (settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1)
    answer = ask("POST", "/v1/conversations", body, x_api_key=owner.key)
    assert refusal(answer) == (413, "request_too_large")


def test_every_answer_has_an_id_of_its_own(owner: Person) -> None:
    ids = {ask("GET", "/v1/conversations", x_api_key=owner.key).headers["request-id"] for _ in range(3)}
    assert len(ids) == 3
    given = ask("GET", "/v1/conversations", x_api_key=owner.key, request_id="mine")
    assert given.headers["request-id"] != "mine"
    assert ask("GET", "/health").headers["request-id"]
    assert ask("GET", "/nowhere").headers["request-id"]


@pytest.fixture
def broken_table(owner: Person, servers: Any) -> Iterator[None]:
    """The application may not read conversations for a while."""
    table = "conversations_conversation"
    role = connection.settings_dict["USER"]
    with servers.as_admin() as admin:
        admin.execute(f'REVOKE SELECT ON {table} FROM "{role}"')
        yield
        admin.execute(f'GRANT SELECT ON {table} TO "{role}"')


@pytest.mark.usefixtures("broken_table")
def test_a_failure_of_ours_is_told_without_its_details(owner: Person) -> None:
    answer = ask("GET", "/v1/conversations", x_api_key=owner.key)
    assert refusal(answer) == (500, "api_error")
    assert b"conversations_conversation" not in answer.content


# Who calls ----------------------------------------------------------------------------------------------------


def calls(**headers: Any) -> Any:
    return ask("GET", "/v1/conversations", **headers)


def test_a_key_comes_in_either_header(owner: Person) -> None:
    assert calls(x_api_key=owner.key).status_code == 200
    assert calls(authorization=f"Bearer {owner.key}").status_code == 200
    assert calls(authorization=f"bearer  {owner.key} ").status_code == 200


@pytest.mark.parametrize("scheme", ["Basic", "Bearer", "Token", ""])
@pytest.mark.usefixtures("database")
def test_without_a_good_key_nobody_calls(scheme: str) -> None:
    assert refusal(calls()) == (401, "authentication_error")
    assert refusal(calls(x_api_key="wrong")) == (401, "authentication_error")
    assert refusal(calls(authorization=f"{scheme} wrong")) == (401, "authentication_error")


def test_a_wrong_key_is_not_saved_by_a_cookie(owner: Person) -> None:
    answer = ask("GET", "/v1/conversations", cookies=owner.client, x_api_key="wrong")
    assert refusal(answer) == (401, "authentication_error")
    answer = ask("GET", "/v1/conversations", cookies=owner.client, x_api_key="")
    assert refusal(answer) == (401, "authentication_error")


def test_a_key_acts_in_its_own_tenant_only(house: House, owner: Person, stranger: Person) -> None:
    path = f"/v1/conversations?tenant={house.slug}"
    assert ask("GET", path, x_api_key=owner.key).status_code == 200
    assert refusal(ask("GET", path, x_api_key=stranger.key)) == (404, "not_found_error")
    assert calls(x_api_key=owner.key, x_tenant=house.slug).status_code == 200
    assert refusal(calls(x_api_key=stranger.key, x_tenant=house.slug)) == (404, "not_found_error")


def test_a_cookie_acts_in_the_tenant_named(house: House, owner: Person, stranger: Person) -> None:
    def get(slug: str = "", **headers: Any) -> Any:
        path = "/v1/conversations" + (f"?tenant={slug}" if slug else "")
        return ask("GET", path, cookies=owner.client, **headers)

    assert get().status_code == 200
    assert get(house.slug).status_code == 200
    assert get(x_tenant=house.slug).status_code == 200
    assert refusal(get(stranger.membership.tenant.slug)) == (404, "not_found_error")
    assert refusal(get("nowhere")) == (404, "not_found_error")
    other = found_house("second")
    other.join(Role.VIEWER, owner.user)
    assert refusal(get()) == (400, "invalid_request_error")
    assert get(house.slug).status_code == 200
    assert get(x_tenant=other.slug).status_code == 200


# From which page ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        # A page of ours, as a browser names it.
        ({"origin": HERE, "sec_fetch_site": "same-origin"}, 201),
        ({"origin": HERE}, 201),
        # A program with a cookie: no page can leave out both.
        ({}, 201),
        ({"sec_fetch_site": "none"}, 201),
        ({"origin": "https://elsewhere.example"}, 403),
        ({"origin": "https://elsewhere.example", "sec_fetch_site": "cross-site"}, 403),
        ({"origin": f"{HERE}.elsewhere.example"}, 403),
        ({"origin": f"{HERE}:81"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
    ],
)
def test_a_cookie_changes_nothing_for_a_page_of_others(
    owner: Person, headers: dict[str, Any], status: int
) -> None:
    answer = ask("POST", "/v1/conversations", b"{}", cookies=owner.client, **headers)
    assert answer.status_code == status
    if status == 403:
        assert refusal(answer) == (403, "permission_error")


def test_a_csrf_token_does_not_help_a_page_of_others(owner: Person) -> None:
    owner.client.get("/accounts/login/")
    token = "a" * 32
    owner.client.cookies["csrftoken"] = token
    post = ("POST", "/v1/conversations", b"{}")
    assert ask(*post, cookies=owner.client, x_csrftoken=token).status_code == 201
    answer = ask(*post, cookies=owner.client, x_csrftoken=token, origin="https://elsewhere.example")
    assert answer.status_code == 403


def test_a_trusted_origin_may_act(owner: Person, settings: Any) -> None:
    settings.CSRF_TRUSTED_ORIGINS = ["https://front.example"]
    post = ("POST", "/v1/conversations", b"{}")
    assert ask(*post, cookies=owner.client, origin="https://front.example").status_code == 201


def test_a_key_needs_no_page(owner: Person) -> None:
    answer = ask("POST", "/v1/conversations", b"{}", x_api_key=owner.key, origin="https://elsewhere.example")
    assert answer.status_code == 201


def test_nobody_elses_page_reads_an_answer(owner: Person) -> None:
    answer = calls(x_api_key=owner.key, origin="https://elsewhere.example")
    assert not any(name.lower().startswith("access-control-") for name in answer.headers)
