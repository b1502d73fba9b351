"""The HTTP mouth of API keys. A key's text goes out once, when it is made."""

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from ninja import Field, Router, Schema, Status

from tenants.access import Caller
from tenants.context import in_tenant
from tenants.models import ApiKey
from tenants.roles import ALL_SCOPES, Action

router = Router(tags=["api keys"])

type Record = dict[str, Any]


class NewKey(Schema):
    """Without `scopes` it may all that the caller may; without `expires_at` it lasts as long as the caller's."""

    name: str
    scopes: list[str] | None = None
    expires_at: datetime | None = None


class KeyChange(Schema):
    """What is left out stays; `expires_at` null: it does not expire."""

    name: str | None = None
    expires_at: datetime | None = None


class Rotation(Schema):
    """For how many seconds the old key still works: from 0, which is at once, to 30 days."""

    overlap_seconds: int = Field(3600, ge=0, le=30 * 24 * 3600)


@router.get("/api-keys", summary="The caller's API keys; for admins everybody's")
async def list_keys(request: HttpRequest) -> Record:
    caller = _caller(request)
    return await in_tenant(caller.tenant_id, _list, caller)


@router.post("/api-keys", response={201: Any}, summary="Make an API key")
async def create_key(request: HttpRequest, body: NewKey) -> Status[Record]:
    caller = _caller(request)
    return Status(201, await in_tenant(caller.tenant_id, _create, caller, body))


@router.get("/api-keys/{key}", summary="One API key")
async def read_key(request: HttpRequest, key: str) -> Record:
    caller = _caller(request)
    return await in_tenant(caller.tenant_id, _read, caller, key)


@router.patch("/api-keys/{key}", summary="Rename it, change when it expires")
async def change_key(request: HttpRequest, key: str, body: KeyChange) -> Record:
    caller = _caller(request)
    return await in_tenant(caller.tenant_id, _change, caller, key, body)


@router.post("/api-keys/{key}/rotate", response={201: Any}, summary="A new key in its place")
async def rotate_key(request: HttpRequest, key: str, body: Rotation) -> Status[Record]:
    caller = _caller(request)
    return Status(201, await in_tenant(caller.tenant_id, _rotate, caller, key, body))


@router.delete(
    "/api-keys/{key}", response={204: None}, summary="Revoke it; with_made: what was made with it, too"
)
async def revoke_key(request: HttpRequest, key: str, with_made: bool = False) -> Status[None]:
    caller = _caller(request)
    await in_tenant(caller.tenant_id, _revoke, caller, key, with_made)
    return Status(204, None)


def key_record(key: ApiKey) -> Record:
    """A key as the wire shows it."""
    return {
        "id": str(key.id),
        "name": key.name,
        "prefix": key.prefix,
        "scopes": list(key.scopes),
        "member": str(key.member_id),
        "email": key.member.user.email,
        "made_by": str(key.made_by) if key.made_by else None,
        "created_at": key.created_at.isoformat(),
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        "last_used_at": key.last_used_at.isoformat() if key.last_used_at else None,
    }


def _caller(request: HttpRequest) -> Caller:
    caller: Caller = request.auth  # type: ignore[attr-defined]  # set by ninja
    return caller


# Inside the tenant's context ------------------------------------------------------------------------------


def _list(caller: Caller) -> Record:
    page = [key_record(key) for key in ApiKey.objects.seen_by(caller)]
    return {
        "data": page,
        "has_more": False,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }


def _create(caller: Caller, body: NewKey) -> Record:
    scopes = caller.scopes & ALL_SCOPES if body.scopes is None else body.scopes
    key, text = ApiKey.objects.issue_for(caller, body.name, scopes, body.expires_at)
    return key_record(key) | {"key": text}


def _read(caller: Caller, key: str) -> Record:
    return key_record(ApiKey.objects.of(caller, key))


def _change(caller: Caller, key: str, body: KeyChange) -> Record:
    row = ApiKey.objects.of(caller, key, writing=True)
    if body.name is not None:
        row.rename(body.name)
    if "expires_at" in body.model_fields_set:
        row.expire_at(body.expires_at, caller)
    return key_record(row)


def _rotate(caller: Caller, key: str, body: Rotation) -> Record:
    made, text = ApiKey.objects.of(caller, key, writing=True).rotate(caller, body.overlap_seconds)
    return key_record(made) | {"key": text}


def _revoke(caller: Caller, key: str, with_made: bool) -> None:
    caller.require(Action.KEEP_KEYS)
    ApiKey.objects.of(caller, key).revoke(caller, with_made=with_made)
