"""Secrets at rest: what opens, and what does not (T6, the beginnings of T7)."""

from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pytest
from pytest_django import Settings

from tenants.context import tenant_context
from tenants.drafts import CredentialDraft
from tenants.master_keys import SecretError, new_master_key
from tenants.models import Credential
from tenants.secrets import new_tenant_key, seal, unseal
from tests.cast import House, Person, found_house
from tests.servers import TestServers

CANARY = "sk-canary-0123456789"


@dataclass
class SomeTenant:
    id: UUID = field(default_factory=uuid4)
    sealed_key: bytes | memoryview = b""

    def __post_init__(self) -> None:
        self.sealed_key = new_tenant_key(self.id)


def test_what_was_sealed_opens_in_its_own_place() -> None:
    tenant, row = SomeTenant(), uuid4()
    sealed = seal(tenant, "credential.secret", row, "schön geheim")
    assert unseal(tenant, "credential.secret", row, sealed) == "schön geheim"
    assert unseal(tenant, "credential.secret", row, memoryview(sealed)) == "schön geheim"
    assert sealed != seal(tenant, "credential.secret", row, "schön geheim")


def test_it_opens_nowhere_else() -> None:
    tenant, other, row = SomeTenant(), SomeTenant(), uuid4()
    sealed = seal(tenant, "credential.secret", row, CANARY)
    for where in (
        (other, "credential.secret", row, sealed),
        (tenant, "server.header", row, sealed),
        (tenant, "credential.secret", uuid4(), sealed),
        (tenant, "credential.secret", row, sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (tenant, "credential.secret", row, b""),
    ):
        with pytest.raises(SecretError):
            unseal(*where)


def test_the_key_of_one_tenant_is_no_key_for_another() -> None:
    tenant, other, row = SomeTenant(), SomeTenant(), uuid4()
    sealed = seal(tenant, "credential.secret", row, CANARY)
    other.sealed_key = tenant.sealed_key
    with pytest.raises(SecretError):
        unseal(other, "credential.secret", row, sealed)


def test_a_new_master_key_goes_first_and_the_old_one_still_opens(settings: Settings) -> None:
    tenant, row = SomeTenant(), uuid4()
    sealed = seal(tenant, "credential.secret", row, CANARY)
    old, new = settings.MASTER_KEY, new_master_key()
    settings.MASTER_KEY = f"{new},{old}"
    assert unseal(tenant, "credential.secret", row, sealed) == CANARY
    later = SomeTenant()
    settings.MASTER_KEY = new
    assert unseal(later, "credential.secret", row, seal(later, "credential.secret", row, "x")) == "x"
    with pytest.raises(SecretError):
        unseal(tenant, "credential.secret", row, sealed)


def keep(person: Person) -> Credential:
    draft = CredentialDraft.checked(name="Canary", kind="api_key", secret=CANARY)
    with tenant_context(person.membership.tenant_id):
        return Credential.objects.create_for(person.caller, draft)


def test_a_ciphertext_copied_into_another_tenants_row_does_not_open(
    house: House, servers: TestServers
) -> None:
    other = found_house("other")
    theirs, ours = keep(other.owner), keep(house.owner)
    with servers.as_admin() as admin:
        admin.execute(
            "UPDATE tenants_credential SET sealed_secret = (SELECT sealed_secret FROM tenants_credential"
            " WHERE id = %s) WHERE id = %s",
            [theirs.id, ours.id],
        )
    with tenant_context(house.id), pytest.raises(SecretError):
        _ = Credential.objects.get(id=ours.id).secret
    with tenant_context(other.id):
        assert Credential.objects.get(id=theirs.id).secret == CANARY


def test_the_secret_lies_nowhere_in_the_database(house: House, servers: TestServers) -> None:
    kept = keep(house.owner)
    with servers.as_admin() as admin:
        row = admin.execute(
            "SELECT position(%s in sealed_secret), c::text, t::text FROM tenants_credential c"
            " JOIN tenants_tenant t ON t.id = c.tenant_id WHERE c.id = %s",
            [CANARY.encode(), kept.id],
        ).fetchone()
    assert row
    assert row[0] == 0
    assert CANARY not in row[1] + row[2]


def test_nothing_that_is_printed_shows_a_secret(house: House) -> None:
    draft = CredentialDraft.checked(name="Canary", kind="api_key", secret=CANARY)
    assert CANARY not in repr(draft)
    assert CANARY not in repr(keep(house.owner))
