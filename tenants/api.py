"""The HTTP mouth of who: credentials. Secrets go in and never come out."""

import asyncio
from typing import Any, Literal

from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja import Router, Schema, Status

from tenants.access import Caller
from tenants.acts import Act
from tenants.context import in_tenant
from tenants.drafts import CredentialDraft, checked_name, checked_secret
from tenants.errors import InvalidRequest
from tenants.models import Credential
from tenants.roles import Action, CredentialKind
from tenants.upstreams import checked_base_url

router = Router(tags=["credentials"])

type Record = dict[str, Any]


class NewCredential(Schema):
    """`base_url` is for kind `endpoint` only. `default` makes it the one that its owner's turns use."""

    name: str
    kind: str
    secret: str
    base_url: str | None = None
    default: bool = False
    owner: Literal["tenant", "member"] | None = None


class CredentialChange(Schema):
    """What is left out stays. A new `base_url` needs the secret again: nobody sends away what they can't read."""

    name: str | None = None
    secret: str | None = None
    base_url: str | None = None
    default: bool | None = None


@router.get("/credentials", summary="The tenant's credentials and the caller's own")
async def list_credentials(request: HttpRequest) -> Record:
    caller = _caller(request)
    return await in_tenant(caller.tenant_id, _list, caller)


@router.post("/credentials", response={201: Any}, summary="Keep a credential")
async def create_credential(request: HttpRequest, body: NewCredential) -> Status[Record]:
    caller = _caller(request)
    caller.require(Action.KEEP_CREDENTIALS)
    # Resolving a name may take seconds: on a thread of its own, with no transaction open.
    draft = await asyncio.to_thread(
        CredentialDraft.checked, name=body.name, kind=body.kind, secret=body.secret, base_url=body.base_url
    )
    return Status(201, await in_tenant(caller.tenant_id, _create, caller, draft, body))


@router.get("/credentials/{credential}", summary="One credential")
async def read_credential(request: HttpRequest, credential: str) -> Record:
    caller = _caller(request)
    return await in_tenant(caller.tenant_id, _read, caller, credential)


@router.patch("/credentials/{credential}", summary="Rename it, replace its secret, make it the default")
async def change_credential(request: HttpRequest, credential: str, body: CredentialChange) -> Record:
    caller = _caller(request)
    caller.require(Action.KEEP_CREDENTIALS)
    base_url = body.base_url and await asyncio.to_thread(checked_base_url, body.base_url)
    return await in_tenant(caller.tenant_id, _change, caller, credential, body, base_url)


@router.delete("/credentials/{credential}", response={204: None}, summary="Forget it")
async def delete_credential(request: HttpRequest, credential: str) -> Status[None]:
    caller = _caller(request)
    await in_tenant(caller.tenant_id, _delete, caller, credential)
    return Status(204, None)


def credential_record(credential: Credential) -> Record:
    """A credential as the wire shows it."""
    endpoint = {"base_url": credential.base_url} if credential.base_url else {}
    used = credential.last_used_at
    return {
        "id": str(credential.id),
        "name": credential.name,
        "kind": credential.kind,
        **endpoint,
        "last4": credential.last4,
        "default": credential.is_default,
        "owner": credential.owner,
        "state": credential.state,
        "last_used_at": used.isoformat() if used else None,
    }


def _caller(request: HttpRequest) -> Caller:
    caller: Caller = request.auth  # type: ignore[attr-defined]  # set by ninja
    return caller


# Inside the tenant's context ------------------------------------------------------------------------------


def _list(caller: Caller) -> Record:
    caller.require(Action.SEE_CREDENTIALS)
    page = [credential_record(row) for row in Credential.objects.usable_by(caller.member_id)]
    return {
        "data": page,
        "has_more": False,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }


def _create(caller: Caller, draft: CredentialDraft, body: NewCredential) -> Record:
    made = Credential.objects.create_for(caller, draft, default=body.default, owner=body.owner)
    return credential_record(made)


def _read(caller: Caller, credential: str) -> Record:
    return credential_record(Credential.objects.of(caller, credential))


def _change(caller: Caller, credential: str, body: CredentialChange, base_url: str | None) -> Record:
    row = Credential.objects.of(caller, credential, writing=True)
    if body.name is not None:
        row.name = checked_name(body.name)
    if base_url and base_url != row.base_url:
        _move(row, base_url, body.secret)
    if body.secret is not None:
        row.secret = checked_secret(body.secret)
    if body.default is False:
        row.is_default = False
    row.save(update_fields=["name", "base_url", "sealed_secret", "last4", "state", "is_default"])
    if body.default:
        row.make_default()
    changed = sorted(body.dict(exclude_unset=True, exclude_none=True))
    row.note(Act.CREDENTIAL_CHANGED, caller, changed=changed)
    return credential_record(row)


def _move(row: Credential, base_url: str, secret: str | None) -> None:
    if row.kind != CredentialKind.ENDPOINT:
        raise InvalidRequest(_("base_url is for endpoints only."))
    if secret is None:
        raise InvalidRequest(_("A new base_url needs the secret again."))
    row.base_url = base_url


def _delete(caller: Caller, credential: str) -> None:
    Credential.objects.of(caller, credential, writing=True).forget(caller)
