"""Changing keys under way: interrupted by kill -9, repeated, and read all the time."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from pytest_django import Settings

from tenants import key_parts, rotation, secrets
from tenants.context import tenant_context
from tenants.drafts import CredentialDraft
from tenants.master_keys import SecretError, new_master_key
from tenants.models import SECRET_FIELD, Credential, Tenant
from tenants.rotation import change_key, sealed_fields, wrap_anew
from tests.cast import House, found_house
from tests.servers import TestServers

PROJECT = Path(__file__).resolve().parents[2]


def keep(house: House, count: int = 1) -> dict[UUID, str]:
    """So many credentials of the house's owner; their secrets by id."""
    kept = {}
    with tenant_context(house.id):
        for number in range(count):
            draft = CredentialDraft.checked(name=f"No. {number}", kind="api_key", secret=f"sk-{uuid4()}")
            kept[Credential.objects.create_for(house.owner.caller, draft).id] = draft.secret
    return kept


def opened(house: House) -> dict[UUID, str]:
    with tenant_context(house.id):
        return {row.id: row.secret for row in Credential.objects.select_related("tenant")}


def tenant_of(house: House) -> Tenant:
    with tenant_context(house.id):
        return Tenant.objects.get()


def sealed_with_newest(house: House) -> int:
    with tenant_context(house.id):
        rows = Credential.objects.select_related("tenant")
        return sum(secrets.is_sealed_with_newest(row.tenant, row.sealed_secret) for row in rows)


@contextmanager
def command(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A `manage.py` command as a process of its own, gone at the end."""
    with subprocess.Popen(
        [sys.executable, "manage.py", *arguments],
        cwd=PROJECT,
        env=dict(os.environ) | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def test_every_secret_of_every_model_is_found(house: House) -> None:
    found = {(field.model, field.column): field.bound_to for field in sealed_fields()}
    assert found[Credential, "sealed_secret"] == SECRET_FIELD


def test_a_new_key_seals_everything_and_closes_what_the_former_one_sealed(house: House) -> None:
    kept = keep(house, 3)
    before = tenant_of(house)
    with tenant_context(house.id):
        former = {row.id: bytes(row.sealed_secret) for row in Credential.objects.all()}
    assert change_key(house.id) == []
    assert opened(house) == kept
    after = tenant_of(house)
    assert not secrets.is_changing(after)
    for row, sealed in former.items():
        assert secrets.unseal(before, SECRET_FIELD, row, sealed) == kept[row]
        with pytest.raises(SecretError):
            secrets.unseal(after, SECRET_FIELD, row, sealed)


def test_a_secret_that_does_not_open_is_told_and_keeps_the_former_key(
    house: House, servers: TestServers
) -> None:
    kept = keep(house, 2)
    lost, *_rest = kept
    with servers.as_admin() as admin:
        admin.execute("UPDATE tenants_credential SET sealed_secret = 'broken' WHERE id = %s", [lost])
    with pytest.raises(CommandError, match=f"credential.secret of {lost} does not open; enter it again"):
        call_command("rotate_tenant_keys", house.slug, stdout=StringIO())
    assert secrets.is_changing(tenant_of(house))
    with tenant_context(house.id):
        Credential.objects.filter(id=lost).delete()
    assert change_key(house.id) == []
    assert not secrets.is_changing(tenant_of(house))
    assert opened(house) == {row: secret for row, secret in kept.items() if row != lost}


def test_who_enters_a_secret_waits_for_the_step_and_seals_with_a_key_that_stays(house: House) -> None:
    """Sealed with the former key, it would be lost when that key is dropped."""
    keep(house)
    done = threading.Event()

    def change() -> None:
        change_key(house.id)
        connection.close()
        done.set()

    with tenant_context(house.id):
        tenant = Tenant.objects.for_sealing(house.id)
        changing = threading.Thread(target=change)
        changing.start()
        assert not done.wait(0.3)
        late = Credential(tenant=tenant, name="Late", kind="api_key")
        late.secret = "sk-late"
        late.save(force_insert=True)
    changing.join()
    assert opened(house)[late.id] == "sk-late"


def test_a_tenant_nobody_knows_is_told(house: House) -> None:
    with pytest.raises(CommandError, match="There is no tenant nobody-at-all"):
        call_command("rotate_tenant_keys", house.slug, "nobody-at-all")


def test_killed_in_the_middle_and_repeated_it_loses_nothing_and_nobody_notices(house: House) -> None:
    kept = keep(house, 700)
    with command("rotate_tenant_keys", house.slug) as changing:
        until = time.monotonic() + 30
        while not 0 < sealed_with_newest(house) < len(kept) or not secrets.is_changing(tenant_of(house)):
            assert time.monotonic() < until and changing.poll() is None, "it was not seen in the middle"
        changing.kill()
        changing.wait()
    assert secrets.is_changing(tenant_of(house))
    assert 0 < sealed_with_newest(house) < len(kept)
    assert opened(house) == kept
    looks = 0
    with command("rotate_tenant_keys", house.slug) as changing:
        while changing.poll() is None:
            assert opened(house) == kept
            looks += 1
        assert changing.stdout and "1 tenants have a new key." in changing.stdout.read()
    assert looks > 1
    assert opened(house) == kept
    assert not secrets.is_changing(tenant_of(house))


# The master key -------------------------------------------------------------------------------------------------


def test_the_master_key_changes_in_three_steps_and_may_be_killed(
    database: None, servers: TestServers, settings: Settings
) -> None:
    with servers.as_admin() as admin:  # other tests leave tenants behind whose keys open no more
        admin.execute("TRUNCATE tenants_tenant CASCADE")
    houses = [found_house("many") for _ in range(41)]
    kept = {one.id: keep(one) for one in houses}
    old, new = settings.MASTER_KEY, new_master_key()
    settings.MASTER_KEY = f"{new},{old}"
    try:
        with command("rotate_master_key", MASTER_KEY=settings.MASTER_KEY) as changing:
            until = time.monotonic() + 30
            while not any(secrets.is_wrapped_as_new(tenant_of(one)) for one in houses):
                assert time.monotonic() < until
            changing.kill()
            changing.wait()
        assert {one.id: opened(one) for one in houses} == kept
        with command("rotate_master_key", MASTER_KEY=settings.MASTER_KEY) as changing:
            told = changing.communicate()[0]
            assert changing.returncode == 0, told
        assert "The others may be taken out of it" in told
        settings.MASTER_KEY = new
        assert {one.id: opened(one) for one in houses} == kept
    finally:  # the tests after this one have the old key
        with command("rotate_master_key", MASTER_KEY=f"{old},{new}") as back:
            assert back.wait() == 0
    settings.MASTER_KEY = old
    assert {one.id: opened(one) for one in houses} == kept


def test_a_master_key_that_is_missing_is_named(house: House, settings: Settings) -> None:
    keep(house)
    settings.MASTER_KEY = new_master_key()
    with pytest.raises(SecretError, match="which is not in MASTER_KEY"):
        wrap_anew(house.id)
    with pytest.raises(CommandError, match=f"{house.slug}: the key of tenant"):
        call_command("rotate_master_key", stdout=StringIO())


def test_a_key_that_was_made_without_a_part_gets_one(database: None, settings: Settings) -> None:
    usual, settings.TENANT_KEYS_DIR = settings.TENANT_KEYS_DIR, None
    house = found_house("before")
    kept = keep(house)
    assert bytes(tenant_of(house).sealed_key)[:1] == secrets.PLAIN
    settings.TENANT_KEYS_DIR = usual
    assert opened(house) == kept
    assert wrap_anew(house.id) and not wrap_anew(house.id)
    assert opened(house) == kept
    assert key_parts.part_of(house.id)


def test_a_rotation_that_another_one_overtakes_closes_no_secret(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A has sealed everything and is slow; B finishes, C begins: A must not drop what all is sealed with."""
    kept, drop = keep(house, 3), rotation._drop_former_key

    def overtaken(tenant_id: UUID) -> bool:
        monkeypatch.setattr(rotation, "_drop_former_key", drop)
        assert change_key(tenant_id) == []
        with tenant_context(tenant_id):
            tenant = Tenant.objects.get()
            Tenant.objects.filter(id=tenant_id).update(sealed_key=secrets.with_new_key(tenant))
        return drop(tenant_id)

    monkeypatch.setattr(rotation, "_drop_former_key", overtaken)
    assert change_key(house.id) == []
    assert opened(house) == kept
    assert sealed_with_newest(house) == 3
