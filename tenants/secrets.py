"""Secrets at rest: sealed with a key per tenant, which is itself sealed with the master key.

Tink's AES-256-GCM throughout. What a ciphertext is for is bound into it (tenant, table and field, row), so
that one moved to another place does not open. MASTER_KEY is one key or several, base64 of 32 bytes each,
separated by commas: the first seals, all open, so that it can be rotated.
"""

import base64
import binascii
import hashlib
import secrets
import time
from functools import cache, lru_cache
from typing import Protocol
from uuid import UUID

import tink
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from tink import aead, proto_keyset_format, secret_key_access
from tink.proto import aes_gcm_pb2, tink_pb2

KEY_BYTES = 32
KEPT_OPEN = 256  # tenants' keys
KEPT_OPEN_SECONDS = 300


class SecretError(Exception):
    """A ciphertext that does not open here: moved, changed, or sealed with a key that is gone."""


class HasKey(Protocol):
    """A tenant, as far as sealing needs it."""

    id: UUID
    sealed_key: bytes | memoryview


def new_master_key() -> str:
    """A fresh key, as MASTER_KEY takes it."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def new_tenant_key(tenant: UUID) -> bytes:
    """A fresh key for a tenant, sealed with the master key. About 200 bytes."""
    handle = tink.new_keyset_handle(_template())
    return bytes(
        proto_keyset_format.serialize_encrypted(handle, master_key(), _bound("tenant", "key", tenant))
    )


def seal(tenant: HasKey, field: str, row: UUID, text: str) -> bytes:
    """Seal a text for `field` ("table.column") of one row of the tenant."""
    return bytes(_key_of(tenant).encrypt(text.encode(), _bound(str(tenant.id), field, row)))


def unseal(tenant: HasKey, field: str, row: UUID, sealed: bytes | memoryview) -> str:
    """The text again, or SecretError where it was not sealed for exactly this place."""
    try:
        opened: bytes = _key_of(tenant).decrypt(bytes(sealed), _bound(str(tenant.id), field, row))
    except tink.TinkError as error:
        raise SecretError(f"{field} of {row} does not open") from error
    return opened.decode()


def master_key() -> aead.Aead:
    """The master key from the settings; ImproperlyConfigured says what is wrong with it."""
    return _master_key(settings.MASTER_KEY)


@lru_cache(maxsize=2)
def _master_key(written: str) -> aead.Aead:
    keyset = tink_pb2.Keyset()
    for raw in _parsed(written):
        key = keyset.key.add()
        # From the key itself, so that it stays the same wherever in the list the key stands.
        key.key_id = int.from_bytes(hashlib.sha256(raw).digest()[:4])
        key.status = tink_pb2.ENABLED
        key.output_prefix_type = tink_pb2.TINK
        key.key_data.type_url = "type.googleapis.com/google.crypto.tink.AesGcmKey"
        key.key_data.value = aes_gcm_pb2.AesGcmKey(key_value=raw).SerializeToString()
        key.key_data.key_material_type = tink_pb2.KeyData.SYMMETRIC
    keyset.primary_key_id = keyset.key[0].key_id
    _template()
    return proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN).primitive(aead.Aead)


def _parsed(written: str) -> list[bytes]:
    try:
        keys = [base64.b64decode(one.strip(), validate=True) for one in written.split(",") if one.strip()]
    except binascii.Error:
        keys = []
    if not keys or any(len(key) != KEY_BYTES for key in keys):
        raise ImproperlyConfigured(
            "MASTER_KEY is missing or is not base64 of 32 bytes. Make one with: openssl rand -base64 32. A lost"
            " key can't be replaced: what it sealed stays sealed."
        )
    return keys


def _key_of(tenant: HasKey) -> aead.Aead:
    return _opened(
        tenant.id, bytes(tenant.sealed_key), settings.MASTER_KEY, int(time.monotonic() // KEPT_OPEN_SECONDS)
    )


@lru_cache(maxsize=KEPT_OPEN)
def _opened(tenant: UUID, sealed: bytes, master: str, age: int) -> aead.Aead:
    try:
        handle = proto_keyset_format.parse_encrypted(
            sealed, _master_key(master), _bound("tenant", "key", tenant)
        )
    except tink.TinkError as error:
        raise SecretError(f"the key of tenant {tenant} does not open with this MASTER_KEY") from error
    return handle.primitive(aead.Aead)


@cache
def _template() -> tink_pb2.KeyTemplate:
    aead.register()
    return aead.aead_key_templates.AES256_GCM


def _bound(tenant: str, field: str, row: UUID) -> bytes:
    return f"{tenant}/{field}/{row}".encode()
