"""Secrets at rest: sealed with a key per tenant, which is itself wrapped with the master key.

Tink's AES-256-GCM throughout. What a ciphertext is for is bound into it (tenant, table and field, row), so
that one moved to another place does not open.

`Tenant.sealed_key` is a byte that says how, then what `master_keys` made of the tenant's keyset: WITH_PART has
another layer inside, see `key_parts`. While its key is being changed, a keyset has two.
"""

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol
from uuid import UUID

import tink
from django.conf import settings
from tink import aead, proto_keyset_format, secret_key_access
from tink.proto import tink_pb2

from tenants import key_parts
from tenants.master_keys import SecretError, aead_of, master_keys, register

KEPT_OPEN = 256  # tenants' keys
KEPT_OPEN_SECONDS = 300
PLAIN, WITH_PART = b"\x01", b"\x02"
PREFIX_BYTES = 5  # of a ciphertext of Tink's: a version and the id of its key


@dataclass(frozen=True, slots=True)
class Opened:
    """A tenant's key, ready for use, and the id of the newest in it."""

    aead: aead.Aead
    newest: int


class HasKey(Protocol):
    """A tenant, as far as sealing needs it."""

    id: UUID
    sealed_key: bytes | memoryview


# Secrets ------------------------------------------------------------------------------------------------------


def seal(tenant: HasKey, field: str, row: UUID, text: str) -> bytes:
    """Seal a text for `field` ("table.column") of one row of the tenant.

    Whoever stores it holds a lock on the tenant's row (`Tenant.objects.for_sealing`): its key may be changing.
    """
    return bytes(_key_of(tenant).aead.encrypt(text.encode(), _bound(str(tenant.id), field, row)))


def unseal(tenant: HasKey, field: str, row: UUID, sealed: bytes | memoryview) -> str:
    """The text again, or SecretError where it was not sealed for exactly this place."""
    try:
        opened: bytes = _key_of(tenant).aead.decrypt(bytes(sealed), _bound(str(tenant.id), field, row))
    except tink.TinkError as error:
        raise SecretError(f"{field} of {row} does not open") from error
    return opened.decode()


def is_sealed_with_newest(tenant: HasKey, sealed: bytes | memoryview) -> bool:
    """Whether a secret was sealed with the newest of the tenant's keys, by what it says of itself."""
    return bytes(sealed[:PREFIX_BYTES]) == b"\x01" + _key_of(tenant).newest.to_bytes(4)


# A tenant's key -----------------------------------------------------------------------------------------------


def new_tenant_key(tenant: UUID) -> bytes:
    """A fresh key for a tenant, wrapped, about 200 bytes. Its part is on the disk before this returns."""
    return _wrapped(tenant, _fresh_keyset())


def is_wrapped_as_new(tenant: HasKey) -> bool:
    """Whether the tenant's key is wrapped with the first master key, and has a part if new ones have."""
    sealed = bytes(tenant.sealed_key)
    return sealed[:1] == _how_new() and master_keys().is_current(sealed[1:])


def wrapped_anew(tenant: HasKey) -> bytes:
    """The same key or keys, as a new one would be wrapped."""
    return _wrapped(tenant.id, _keyset_of(tenant))


def is_changing(tenant: HasKey) -> bool:
    """Whether the tenant has a former key beside the newest."""
    return len(_keyset_of(tenant).key) > 1


def with_new_key(tenant: HasKey) -> bytes:
    """One more key, which seals from now on; the former one still opens."""
    keyset, fresh = _keyset_of(tenant), _fresh_keyset()
    keyset.key.extend(fresh.key)
    keyset.primary_key_id = fresh.primary_key_id
    return _wrapped(tenant.id, keyset)


def with_newest_key_only(tenant: HasKey) -> bytes:
    """Without former keys: what they sealed is closed for good."""
    keyset = _keyset_of(tenant)
    newest = [key for key in keyset.key if key.key_id == keyset.primary_key_id]
    return _wrapped(tenant.id, tink_pb2.Keyset(primary_key_id=keyset.primary_key_id, key=newest))


def _key_of(tenant: HasKey) -> Opened:
    return _opened(
        tenant.id, bytes(tenant.sealed_key), settings.MASTER_KEY, int(time.monotonic() // KEPT_OPEN_SECONDS)
    )


@lru_cache(maxsize=KEPT_OPEN)
def _opened(tenant: UUID, sealed: bytes, master: str, age: int) -> Opened:
    keyset = _unwrapped(tenant, sealed)
    handle = proto_keyset_format.parse(keyset, secret_key_access.TOKEN)
    return Opened(handle.primitive(aead.Aead), tink_pb2.Keyset.FromString(keyset).primary_key_id)


def _keyset_of(tenant: HasKey) -> tink_pb2.Keyset:
    return tink_pb2.Keyset.FromString(_unwrapped(tenant.id, bytes(tenant.sealed_key)))


def _fresh_keyset() -> tink_pb2.Keyset:
    register()
    handle = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM)
    return tink_pb2.Keyset.FromString(proto_keyset_format.serialize(handle, secret_key_access.TOKEN))


def _wrapped(tenant: UUID, keyset: tink_pb2.Keyset) -> bytes:
    how, inner, bound = _how_new(), keyset.SerializeToString(), _bound("tenant", "key", tenant)
    if how == WITH_PART:
        inner = bytes(aead_of(key_parts.make_part(tenant)).encrypt(inner, bound))
    return how + master_keys().wrap(inner, bound)


def _unwrapped(tenant: UUID, sealed: bytes) -> bytes:
    """The keyset, in the clear. SecretError says which key is missing."""
    register()
    bound = _bound("tenant", "key", tenant)
    how, wrapped = sealed[:1], sealed[1:]
    try:
        if how == WITH_PART:
            part = aead_of(key_parts.part_of(tenant))
            return bytes(part.decrypt(master_keys().unwrap(wrapped, bound), bound))
        return master_keys().unwrap(wrapped, bound) if how == PLAIN else _former(sealed, bound)
    except (SecretError, tink.TinkError) as error:
        raise SecretError(f"the key of tenant {tenant} does not open: {error}") from error


def _former(sealed: bytes, bound: bytes) -> bytes:
    """Tink's own form, in which keys were wrapped at first."""
    for key in master_keys().keys:
        try:
            handle = proto_keyset_format.parse_encrypted(sealed, key.aead, bound)
        except tink.TinkError:
            continue
        return bytes(proto_keyset_format.serialize(handle, secret_key_access.TOKEN))
    raise SecretError("it was wrapped with a master key that is not in MASTER_KEY")


def _how_new() -> bytes:
    return WITH_PART if key_parts.are_used() else PLAIN


def _bound(tenant: str, field: str, row: UUID) -> bytes:
    return f"{tenant}/{field}/{row}".encode()
