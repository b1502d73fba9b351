"""The master keys: what wraps the tenants' keys, out of the settings or in the cloud.

MASTER_KEY is one key or several, separated by commas: the first wraps, all unwrap, so that they can be rotated.
Each is base64 of 32 bytes, or the address of a key that never leaves a cloud's key service, as Tink writes it
(`aws-kms://arn:aws:kms:…`, `gcp-kms://projects/…`); those need the extra packages `aws` or `gcp`.
"""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NoReturn

import tink
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from tink import aead, proto_keyset_format, secret_key_access
from tink.proto import aes_gcm_pb2, tink_pb2

KEY_BYTES = 32
NAME_BYTES = 8


class SecretError(Exception):
    """A ciphertext that does not open here: moved, changed, or sealed with a key that is gone."""


@dataclass(frozen=True, slots=True)
class MasterKey:
    """`name` tells one from another and says nothing about it."""

    name: bytes
    aead: aead.Aead


@dataclass(frozen=True, slots=True)
class MasterKeys:
    """All that are in the settings, the one that wraps first."""

    keys: tuple[MasterKey, ...]

    def wrap(self, key: bytes, bound: bytes) -> bytes:
        """Wrap with the first, whose name goes before the ciphertext."""
        first = self.keys[0]
        return first.name + _asked(lambda: first.aead.encrypt(key, bound))

    def unwrap(self, wrapped: bytes, bound: bytes) -> bytes:
        """The key again; SecretError where its master key is gone, or it was wrapped for something else."""
        name, sealed = wrapped[:NAME_BYTES], wrapped[NAME_BYTES:]
        key = next((key for key in self.keys if key.name == name), None)
        if key is None:
            raise SecretError(f"wrapped with the master key {name.hex()}, which is not in MASTER_KEY")
        return _asked(lambda: key.aead.decrypt(sealed, bound))

    def is_current(self, wrapped: bytes) -> bool:
        """Whether the first key wrapped it."""
        return wrapped[:NAME_BYTES] == self.keys[0].name


def new_master_key() -> str:
    """A fresh key, as MASTER_KEY takes it."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def master_keys() -> MasterKeys:
    """Those of the settings; ImproperlyConfigured says what is wrong with them."""
    return _read(settings.MASTER_KEY)


@lru_cache(maxsize=2)
def _read(written: str) -> MasterKeys:
    entries = [entry.strip() for entry in written.split(",") if entry.strip()]
    if not entries:
        _refuse()
    return MasterKeys(tuple(_in_the_cloud(entry) if "://" in entry else _local(entry) for entry in entries))


def _refuse() -> NoReturn:
    raise ImproperlyConfigured(
        "MASTER_KEY is missing or is not base64 of 32 bytes. Make one with: openssl rand -base64 32. A lost"
        " key can't be replaced: what it sealed stays sealed."
    )


def _local(written: str) -> MasterKey:
    try:
        raw = base64.b64decode(written, validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != KEY_BYTES:
        _refuse()
    return MasterKey(hashlib.sha256(b"master key\0" + raw).digest()[:NAME_BYTES], aead_of(raw))


def aead_of(raw: bytes) -> aead.Aead:
    """AES-256-GCM with 32 bytes of key material."""
    register()
    keyset = tink_pb2.Keyset()
    key = keyset.key.add()
    # From the key itself, so that it is the same in every process.
    key.key_id = keyset.primary_key_id = int.from_bytes(hashlib.sha256(raw).digest()[:4])
    key.status = tink_pb2.ENABLED
    key.output_prefix_type = tink_pb2.TINK
    key.key_data.type_url = "type.googleapis.com/google.crypto.tink.AesGcmKey"
    key.key_data.value = aes_gcm_pb2.AesGcmKey(key_value=raw).SerializeToString()
    key.key_data.key_material_type = tink_pb2.KeyData.SYMMETRIC
    return proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN).primitive(aead.Aead)


@cache
def register() -> None:
    """Tell Tink which primitives we use."""
    aead.register()


# In the cloud -------------------------------------------------------------------------------------------------


def _in_the_cloud(uri: str) -> MasterKey:
    try:
        service = _client(uri).get_aead(uri)
    except tink.TinkError as error:
        raise ImproperlyConfigured(
            f"MASTER_KEY: {uri} is no key of a cloud that can be used: {error}"
        ) from error
    return MasterKey(hashlib.sha256(uri.encode()).digest()[:NAME_BYTES], service)


def _client(uri: str) -> tink.KmsClient:
    """A client that was registered with Tink for this address, or else the cloud's own."""
    try:
        return tink.kms_client_from_uri(uri)
    except tink.TinkError:
        pass
    scheme = uri.partition("://")[0]
    if scheme not in CLOUDS:
        raise ImproperlyConfigured(
            f"MASTER_KEY: nothing here opens {scheme}:// keys; aws-kms:// and gcp-kms:// can be used."
        )
    extra, make = CLOUDS[scheme]
    try:
        return make(uri)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"MASTER_KEY: {scheme}:// keys need packages that are not installed. Run: uv sync --extra {extra}"
        ) from error
    except Exception as error:  # a border: each cloud's library has faults of its own kind
        raise ImproperlyConfigured(
            f"MASTER_KEY: the client for {scheme}:// did not start: {error}"
        ) from error


def _aws(uri: str) -> tink.KmsClient:
    from tink.integration import awskms

    return awskms.AwsKmsClient(uri, None)


def _gcp(uri: str) -> tink.KmsClient:
    from tink.integration import gcpkms

    return gcpkms.GcpKmsClient(uri, None)


CLOUDS: dict[str, tuple[str, Callable[[str], tink.KmsClient]]] = {
    "aws-kms": ("aws", _aws),
    "gcp-kms": ("gcp", _gcp),
}


def _asked(work: Callable[[], bytes]) -> bytes:
    try:
        return bytes(work())
    except Exception as error:  # a border: a cloud that is away says so in many ways
        raise SecretError(f"the master key did not open or close it: {error!r}") from error
