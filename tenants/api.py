"""The HTTP mouth of a tenant's credentials: secrets go in, only their last four characters come out."""

from typing import Any, Literal

from django.http import HttpRequest
from ninja import Router, Schema, Status

from tenants.access import Caller
from tenants.context import across_tenants, in_tenant
from tenants.drafts import CredentialDraft
from tenants.models import Credential

router = Router(tags=["credentials"])

type Record = dict[str, Any]


class NewCredential(Schema):
    name: str
    kind: str
    secret: str
    base_url: str | None = None
    default: bool = False
    owner: Literal["tenant", "member"] | None = None


class CredentialChange(Schema):
    """What is left out stays. A new secret or address is checked like that of a new credential."""

    name: str | None = None
    secret: str | None = None
    base_url: str | None = None
    default: bool | None = None


@router.get("/credentials", summary="The tenant's credentials and the caller's own")
async def list_credentials(request: HttpRequest) -> Record:
    caller = _caller(request)
    return {"data": await in_tenant(caller.tenant_id, _list, caller), "has_more": False}


@router.post("/credentials", response={201: dict[str, Any]}, summary="Enter a credential")
async def create_credential(request: HttpRequest, body: NewCredential) -> Status[Record]:
    caller = _caller(request)
    draft = await _checked(name=body.name, kind=body.kind, secret=body.secret, base_url=body.base_url)
    return Status(201, await in_tenant(caller.tenant_id, _create, caller, body, draft))


@router.get("/credentials/{credential}", summary="A credential, without its secret")
async def read_credential(request: HttpRequest, credential: str) -> Record:
    caller = _caller(request)
    return await in_tenant(caller.tenant_id, _read, caller, credential)


@router.patch("/credentials/{credential}", summary="Rename, replace the secret, make it the default")
async def change_credential(request: HttpRequest, credential: str, body: CredentialChange) -> Record:
    caller = _caller(request)
    kind, base_url = await in_tenant(caller.tenant_id, _kind, caller, credential)
    draft = await _checked(
        name="unchanged" if body.name is None else body.name,
        kind=kind,
        secret="unchanged" if body.secret is None else body.secret,
        base_url=body.base_url or base_url,
    )
    return await in_tenant(caller.tenant_id, _change, caller, credential, body, draft)


@router.delete("/credentials/{credential}", response={204: None}, summary="Forget a credential")
async def delete_credential(request: HttpRequest, credential: str) -> Status[None]:
    caller = _caller(request)
    await in_tenant(caller.tenant_id, _delete, caller, credential)
    return Status(204, None)


def record(row: Credential) -> Record:
    """A credential as the API gives it."""
    shown: Record = {
        "id": str(row.id),
        "name": row.name,
        "kind": row.kind,
        "last4": row.last4,
        "default": row.is_default,
        "owner": row.owner,
        "state": row.state,
        "last_used_at": row.last_used_at.isoformat() if row.last_used_at else None,
        "created_at": row.created_at.isoformat(),
    }
    return shown | ({"base_url": row.base_url} if row.base_url else {})


def _caller(request: HttpRequest) -> Caller:
    caller: Caller = request.auth  # type: ignore[attr-defined]  # set by ninja
    return caller


async def _checked(*, name: str, kind: str, secret: str, base_url: str | None) -> CredentialDraft:
    """Looks a host up: on a thread, and before the transaction."""
    return await across_tenants(
        CredentialDraft.checked, name=name, kind=kind, secret=secret, base_url=base_url
    )


def _create(caller: Caller, body: NewCredential, draft: CredentialDraft) -> Record:
    return record(Credential.objects.create_for(caller, draft, default=body.default, owner=body.owner))


def _list(caller: Caller) -> list[Record]:
    caller.require(caller.may_read)
    return [record(row) for row in Credential.objects.usable_by(caller.member_id)]


def _read(caller: Caller, credential: str) -> Record:
    caller.require(caller.may_read)
    return record(Credential.objects.of(caller, credential))


def _kind(caller: Caller, credential: str) -> tuple[str, str]:
    row = Credential.objects.of(caller, credential, writing=True)
    return row.kind, row.base_url


def _change(caller: Caller, credential: str, body: CredentialChange, draft: CredentialDraft) -> Record:
    row = Credential.objects.of(caller, credential, writing=True)
    if body.name is not None:
        row.name = draft.name
    if body.base_url is not None:
        row.base_url = draft.base_url
    if body.secret is not None:
        row.secret = draft.secret
    if body.default is False:
        row.is_default = False
    row.save()
    if body.default:
        row.make_default()
    return record(row)


def _delete(caller: Caller, credential: str) -> None:
    Credential.objects.of(caller, credential, writing=True).delete()
