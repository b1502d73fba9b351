"""Naming the tenant: what is seen with one, with another, with none."""

from tenants.context import tenant_context
from tenants.models import Membership
from tests.cast import House, Person


def test_without_a_tenant_nothing_is_seen(house: House, stranger: Person) -> None:
    assert not Membership.objects.exists()
    with tenant_context(house.id):
        assert Membership.objects.get() == house.owner.membership
