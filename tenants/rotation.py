"""Changing keys while everybody works: each step is a short transaction and leaves every secret readable.

Both kinds may be interrupted at any point and repeated: what is left to do is seen from what is stored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.apps import apps
from django.db import connection, models
from django.utils.translation import gettext as _

from tenants import secrets
from tenants.acts import Act
from tenants.context import tenant_context
from tenants.errors import NotFound
from tenants.master_keys import SecretError
from tenants.models import AuditEvent, Tenant, TenantRow

AT_ONCE = 50
SEALED = "sealed_"


@dataclass(frozen=True, slots=True)
class SealedField:
    """A field of a tenant's model that holds a secret: `sealed_NAME` of MODEL is sealed for "model.NAME"."""

    model: type[TenantRow]
    column: str

    @property
    def bound_to(self) -> str:
        return f"{self.model.__name__.lower()}.{self.column.removeprefix(SEALED)}"


@dataclass(frozen=True, slots=True)
class Unopened:
    """A secret that no key of its tenant opens."""

    field: str
    row: UUID


def sealed_fields() -> list[SealedField]:
    """Every one that there is, but the tenants' own keys."""
    return [
        SealedField(model, field.name)
        for model in apps.get_models()
        if issubclass(model, TenantRow)
        for field in model._meta.local_fields
        if isinstance(field, models.BinaryField) and field.name.startswith(SEALED)
    ]


def all_tenants() -> list[tuple[UUID, str]]:
    """Id and slug of every tenant, by slug."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, slug FROM list_tenants('', NULL)")
        return [(tenant, slug) for tenant, slug in cursor.fetchall()]


def tenants_called(slugs: Sequence[str]) -> dict[str, UUID]:
    """The ids of these tenants, of all where none is named; NotFound says which there are not."""
    known = {slug: tenant for tenant, slug in all_tenants()}
    if unknown := sorted(set(slugs) - known.keys()):
        raise NotFound(_("There is no tenant %(slugs)s.") % {"slugs": ", ".join(unknown)})
    return {slug: known[slug] for slug in slugs or known}


def wrap_anew(tenant_id: UUID) -> bool:
    """Wrap the tenant's key with the first master key; whether there was anything to do.

    SecretError where the master key that wrapped it is gone.
    """
    with tenant_context(tenant_id):
        tenant = Tenant.objects.for_sealing(tenant_id)
        if secrets.is_wrapped_as_new(tenant):
            return False
        _keep(tenant, secrets.wrapped_anew(tenant))
        AuditEvent.objects.note(tenant_id, Act.KEYS_ROTATED, key="master")
        return True


def change_key(tenant_id: UUID) -> list[Unopened]:
    """Give a tenant a new key, seal its secrets with it, drop the former key.

    Goes on where an earlier call was cut off. Where secrets do not open, they are told and the former key stays.
    """
    with tenant_context(tenant_id):
        tenant = Tenant.objects.for_sealing(tenant_id)
        if not secrets.is_changing(tenant):
            _keep(tenant, secrets.with_new_key(tenant))
    while True:
        unopened = [lost for field in sealed_fields() for lost in _seal_anew(tenant_id, field)]
        if unopened or _drop_former_key(tenant_id):
            return unopened


def _drop_former_key(tenant_id: UUID) -> bool:
    """Unless something is sealed with it: another rotation may have begun, whose new key that is not."""
    with tenant_context(tenant_id):
        # Who seals holds the same lock: nothing is sealed with the former key from here on.
        tenant = Tenant.objects.for_sealing(tenant_id)
        if not all(_is_sealed_with_newest(tenant, field) for field in sealed_fields()):
            return False
        _keep(tenant, secrets.with_newest_key_only(tenant))
        AuditEvent.objects.note(tenant_id, Act.KEYS_ROTATED, key="tenant")
        return True


def _is_sealed_with_newest(tenant: Tenant, field: SealedField) -> bool:
    sealed = field.model._default_manager.values_list(field.column, flat=True)
    return all(secrets.is_sealed_with_newest(tenant, one) for one in sealed if one)


def _seal_anew(tenant_id: UUID, field: SealedField) -> Iterator[Unopened]:
    after = UUID(int=0)
    while True:
        with tenant_context(tenant_id):
            tenant = Tenant.objects.for_sealing(tenant_id)
            rows = field.model._default_manager.select_for_update(no_key=True).filter(id__gt=after)
            page = list(rows.order_by("id")[:AT_ONCE])
            unopened = [row.id for row in page if not _seal_row(tenant, field, row)]
        yield from (Unopened(field.bound_to, row) for row in unopened)
        if not page:
            return
        after = page[-1].id


def _seal_row(tenant: Tenant, field: SealedField, row: TenantRow) -> bool:
    sealed = getattr(row, field.column)
    if not sealed or secrets.is_sealed_with_newest(tenant, sealed):
        return True
    try:
        text = secrets.unseal(tenant, field.bound_to, row.id, sealed)
    except SecretError:
        return False
    anew = {field.column: secrets.seal(tenant, field.bound_to, row.id, text)}
    field.model._default_manager.filter(id=row.id).update(**anew)
    return True


def _keep(tenant: Tenant, sealed_key: bytes) -> None:
    Tenant.objects.filter(id=tenant.id).update(sealed_key=sealed_key)
