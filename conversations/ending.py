"""The end of a tenant, in steps that may each be interrupted and repeated. Nothing brings it back."""

from uuid import UUID

from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from conversations.models import Conversation
from tenants.context import tenant_context
from tenants.key_parts import destroy_part
from tenants.models import ApiKey, Invitation, Membership, Tenant, User

AT_ONCE = 20


def shut_out(tenant_id: UUID) -> None:
    """From here on nobody belongs to it: no sign-in, no key, no invitation; sockets close, no turn is claimed."""
    with tenant_context(tenant_id):
        Tenant.objects.for_sealing(tenant_id)
        Membership.objects.filter(left_at=None).update(left_at=timezone.now())
        ApiKey.objects.all().delete()
        Invitation.objects.all().delete()


def delete_conversations(tenant_id: UUID) -> list[UUID]:
    """All, with an order for each folder; those that had one. Their runners stop the processes."""
    ordered: list[UUID] = []
    while True:
        with tenant_context(tenant_id):
            _take_time()
            page = list(Conversation.objects.select_for_update().order_by("id")[:AT_ONCE])
            Conversation.objects.filter(id__in=[row.id for row in page]).delete()
        ordered += [row.id for row in page if row.epoch]
        if not page:
            return ordered


def delete_rest(tenant_id: UUID) -> int:
    """Its key, then all its rows, and with them the accounts of those who belong nowhere else; how many those were.

    Cut off in between, the tenant is still there to be deleted, and closed.
    """
    with tenant_context(tenant_id):
        _take_time()
        # Who is just adding a row waits here, and then finds no tenant.
        tenant = Tenant.objects.select_for_update().get(id=tenant_id)
        destroy_part(tenant_id)
        people = list(Membership.objects.values_list("user_id", flat=True))
        Conversation.objects.all().delete()
        tenant.delete()
        _check_at_once()
        return sum(_delete_account(person) for person in people)


def _take_time() -> None:
    """No statement of this transaction is cut short: what is deleted may be much."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 0")


def _check_at_once() -> None:
    """References to what is deleted are looked for then, not as the transaction commits."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")


def _delete_account(person: UUID) -> bool:
    """Whether the account is gone. It stays where its person operates the platform, or has a row in another tenant.

    Such a row we can't see, but the database can: it refuses. So it does where somebody left that tenant, whose
    words there keep their author.
    """
    try:
        with transaction.atomic():
            return User.objects.filter(id=person, is_staff=False, is_superuser=False).delete()[0] > 0
    except IntegrityError:
        return False
