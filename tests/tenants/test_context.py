"""Naming the tenant: what is seen and written with one, with another, with none (T3, T4)."""

import asyncio
import random
from uuid import UUID, uuid4

import pytest
from django.db import DataError, IntegrityError, ProgrammingError, connection, transaction

from tenants.context import across_tenants, in_tenant, tenant_context
from tenants.models import ApiKey, Credential, Membership, Tenant, User
from tenants.roles import Role
from tests.cast import House, Person, someone


def slugs() -> list[str]:
    return list(Tenant.objects.order_by("slug").values_list("slug", flat=True))


def test_without_a_tenant_no_row_is_seen(house: House, stranger: Person) -> None:
    for model in (Tenant, Membership, Credential, ApiKey):
        assert not model._default_manager.exists()


def test_without_a_tenant_no_row_is_written_changed_or_deleted(house: House) -> None:
    with pytest.raises(ProgrammingError, match="row-level security"):
        Membership.objects.create(tenant=house.tenant, user=someone("intruder"), role=Role.OWNER)
    assert not Membership.objects.filter(tenant=house.tenant).update(role=Role.VIEWER)
    assert Membership.objects.filter(tenant=house.tenant).delete()[0] == 0
    with tenant_context(house.id):
        assert Membership.objects.get().role == Role.OWNER


def test_a_tenant_sees_its_own_rows_only(house: House, stranger: Person) -> None:
    with tenant_context(house.id):
        assert slugs() == [house.slug]
        assert Membership.objects.get() == house.owner.membership
        assert not Membership.objects.filter(id=stranger.membership.id).exists()


def test_a_tenant_writes_no_row_of_another(house: House, stranger: Person) -> None:
    theirs = stranger.membership
    with tenant_context(house.id):
        assert not Membership.objects.filter(id=theirs.id).update(role=Role.VIEWER)
        assert not Tenant.objects.filter(id=theirs.tenant_id).update(name="Taken")
    with pytest.raises(ProgrammingError, match="row-level security"), tenant_context(house.id):
        Membership.objects.create(tenant_id=theirs.tenant_id, user=house.owner.user, role=Role.OWNER)
    with pytest.raises(ProgrammingError, match="row-level security"), tenant_context(house.id):
        Membership.objects.filter(id=house.owner.membership.id).update(tenant=theirs.tenant_id)
    with tenant_context(theirs.tenant_id):
        assert Membership.objects.get().role == Role.OWNER


def test_rows_of_one_tenant_do_not_refer_to_another(house: House, stranger: Person) -> None:
    with pytest.raises(IntegrityError, match="of_tenant"), tenant_context(house.id):
        ApiKey.objects.issue(
            Membership(id=stranger.membership.id, tenant_id=house.id, user=stranger.user), "Stolen"
        )


def test_a_removed_member_takes_their_keys_along(house: House) -> None:
    assert house.member.key
    with tenant_context(house.id):
        assert ApiKey.objects.filter(member=house.member.membership).exists()
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM tenants_membership WHERE id = %s", [house.member.membership.id])
        assert not ApiKey.objects.filter(member=house.member.membership).exists()


def test_contexts_nest_and_the_outer_tenant_comes_back(house: House, stranger: Person) -> None:
    with tenant_context(house.id):
        with tenant_context(stranger.membership.tenant_id):
            assert slugs() == [stranger.membership.tenant.slug]
            with tenant_context(house.id):
                assert slugs() == [house.slug]
            assert slugs() == [stranger.membership.tenant.slug]
        assert slugs() == [house.slug]
    assert slugs() == []


def test_the_outer_tenant_comes_back_after_an_error_too(house: House, stranger: Person) -> None:
    with tenant_context(house.id):
        with pytest.raises(DataError), tenant_context(stranger.membership.tenant_id):
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 / 0")
        assert slugs() == [house.slug]
        with pytest.raises(KeyError), tenant_context(stranger.membership.tenant_id):
            raise KeyError
        assert slugs() == [house.slug]
    assert slugs() == []


def test_inside_somebody_elses_transaction_no_name_is_left_behind(house: House) -> None:
    """A local setting outlives a released savepoint: the context takes its name back itself."""
    with transaction.atomic():
        with tenant_context(house.id):
            assert slugs() == [house.slug]
        assert slugs() == []


def test_an_error_undoes_the_whole_context(house: House) -> None:
    def break_off() -> None:
        with tenant_context(house.id):
            Tenant.objects.update(name="Half")
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    with tenant_context(house.id):
        assert Tenant.objects.get().name != "Half"


@pytest.mark.parametrize("name", ["", "not-a-uuid", None])
def test_a_tenant_is_named_by_a_uuid_and_nothing_else(database: None, name: object) -> None:
    with pytest.raises(TypeError), tenant_context(name):  # type: ignore[arg-type]
        pass


def test_the_application_cannot_lift_the_rules(house: House) -> None:
    for attempt in (
        "ALTER TABLE tenants_credential DISABLE ROW LEVEL SECURITY",
        "DROP POLICY tenant ON tenants_credential",
        "TRUNCATE tenants_credential",
        "CREATE TABLE mine (id int)",
        "SET ROLE parley_test_owner",
        "SET ROLE parley_test_crossing",
        "SET SESSION AUTHORIZATION postgres",
        "CREATE OR REPLACE FUNCTION bearer_of(key_digest bytea) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ):
        with pytest.raises(ProgrammingError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(attempt)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL row_security = off")
        with pytest.raises(ProgrammingError, match="row-level security"), transaction.atomic():
            cursor.execute("SELECT * FROM tenants_credential")


async def test_interleaved_work_of_many_tenants_meets_no_foreign_row(house: House, stranger: Person) -> None:
    homes = {house.id: house.slug, stranger.membership.tenant_id: stranger.membership.tenant.slug}

    async def look(tenant: UUID) -> None:
        match random.randrange(4):
            case 0:
                assert await in_tenant(tenant, slugs) == [homes[tenant]]
            case 1:
                assert await across_tenants(slugs) == []
            case 2:
                with pytest.raises(ZeroDivisionError):
                    await in_tenant(tenant, broken)
            case 3:
                # Who waits may give up; what runs meanwhile ends by itself.
                task = asyncio.create_task(in_tenant(tenant, slugs))
                await asyncio.sleep(random.random() / 1000)
                task.cancel()
                assert (await asyncio.gather(task, return_exceptions=True))[0] is not None

    def broken() -> None:
        assert len(slugs()) == 1
        raise ZeroDivisionError

    for _ in range(20):
        await asyncio.gather(*(look(random.choice(list(homes))) for _ in range(100)))
    assert await across_tenants(slugs) == []


async def test_functions_keep_their_arguments_results_and_errors(house: House) -> None:
    def add(one: int, *, other: int) -> int:
        return one + other

    assert await in_tenant(house.id, add, 1, other=2) == 3
    assert await across_tenants(add, 3, other=4) == 7
    assert await in_tenant(uuid4(), slugs) == []
    with pytest.raises(User.DoesNotExist):
        await across_tenants(User.objects.get, id=uuid4())
