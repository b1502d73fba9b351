"""Master keys out of the settings and out of a cloud: which is chosen, what is said when it can't be.

No cloud is asked here: a client of the test's own stands for one, registered with Tink as the real ones could be.
"""

from collections.abc import Iterator
from uuid import uuid4

import pytest
import tink
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings
from tink import aead

from tenants import secrets
from tenants.master_keys import MasterKeys, SecretError, aead_of, master_keys, new_master_key
from tests.tenants.test_secrets import SomeTenant

AWS = "aws-kms://arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


class Cloud(tink.KmsClient):  # type: ignore[misc]  # Tink comes without types
    """A key service with real keys; it may be away."""

    def __init__(self) -> None:
        self.aead = aead_of(b"k" * 32)
        self.away = False
        self.asked = 0

    def does_support(self, key_uri: str) -> bool:
        return key_uri.startswith("test-kms://")

    def get_aead(self, key_uri: str) -> aead.Aead:
        return self

    def encrypt(self, plaintext: bytes, associated_data: bytes) -> bytes:
        return self._ask(self.aead.encrypt(plaintext, associated_data))

    def decrypt(self, ciphertext: bytes, associated_data: bytes) -> bytes:
        return self._ask(self.aead.decrypt(ciphertext, associated_data))

    def _ask(self, answer: bytes) -> bytes:
        self.asked += 1
        if self.away:
            raise ConnectionError("no route to the key service")
        return answer


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    from tenants import master_keys as module

    cloud = Cloud()
    tink.register_kms_client(cloud)
    yield cloud
    tink._kms_clients.reset_kms_clients()
    module._read.cache_clear()


def keys(settings: Settings, written: str) -> MasterKeys:
    settings.MASTER_KEY = written
    return master_keys()


def test_a_key_in_the_cloud_wraps_what_a_tenant_has(settings: Settings, cloud: Cloud) -> None:
    keys(settings, f"test-kms://one/{uuid4()}")
    tenant, row = SomeTenant(), uuid4()
    sealed = secrets.seal(tenant, "credential.secret", row, "schön geheim")
    asked = cloud.asked
    for _ in range(5):
        assert secrets.unseal(tenant, "credential.secret", row, sealed) == "schön geheim"
    assert cloud.asked == asked, "it is asked once a tenant, not once a secret"


def test_from_a_key_in_a_file_to_one_in_the_cloud_and_back(settings: Settings, cloud: Cloud) -> None:
    tenant, row, old = SomeTenant(), uuid4(), settings.MASTER_KEY
    sealed = secrets.seal(tenant, "credential.secret", row, "geheim")
    uri = f"test-kms://two/{uuid4()}"
    for first, others in ((uri, old), (old, uri)):
        settings.MASTER_KEY = f"{first},{others}"
        assert not secrets.is_wrapped_as_new(tenant)
        tenant.sealed_key = secrets.wrapped_anew(tenant)
        assert secrets.is_wrapped_as_new(tenant)
        settings.MASTER_KEY = first
        assert secrets.unseal(tenant, "credential.secret", row, sealed) == "geheim"


def test_a_cloud_that_is_away_is_a_secret_error(settings: Settings, cloud: Cloud) -> None:
    keys(settings, f"test-kms://three/{uuid4()}")
    tenant = SomeTenant()
    cloud.away = True
    with pytest.raises(SecretError, match="no route to the key service"):
        secrets.seal(tenant, "credential.secret", uuid4(), "x")
    cloud.away = False
    assert secrets.seal(tenant, "credential.secret", uuid4(), "x")


@pytest.mark.parametrize(("uri", "extra"), [(AWS, "aws"), ("gcp-kms://projects/p/locations/l", "gcp")])
def test_without_its_packages_a_cloud_says_which(settings: Settings, uri: str, extra: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"uv sync --extra {extra}"):
        keys(settings, uri)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("hc-vault://somewhere/key", "aws-kms:// and gcp-kms:// can be used"),
        ("", "openssl rand -base64 32"),
        (",", "openssl rand -base64 32"),
        ("short", "openssl rand -base64 32"),
    ],
)
def test_what_is_no_key_is_told(settings: Settings, written: str, told: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=told):
        keys(settings, written)


def test_the_first_of_several_wraps_and_all_unwrap(settings: Settings) -> None:
    one, two = new_master_key(), new_master_key()
    wrapped = keys(settings, one).wrap(b"key", b"bound")
    both = keys(settings, f"{two}, {one}")
    assert both.unwrap(wrapped, b"bound") == b"key" and not both.is_current(wrapped)
    with pytest.raises(SecretError):
        both.unwrap(wrapped, b"elsewhere")
    with pytest.raises(SecretError, match="not in MASTER_KEY"):
        keys(settings, two).unwrap(wrapped, b"bound")
