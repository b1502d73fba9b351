"""The credential of a turn, and the words that go with entering one."""

import logging
from dataclasses import dataclass, field
from uuid import UUID

from django.db.models import Exists
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from tenants.errors import AuthenticationError, InvalidRequest
from tenants.master_keys import SecretError
from tenants.models import Credential, Membership, Tenant
from tenants.roles import CredentialState

logger = logging.getLogger("parley.tenants")

ANTHROPIC = "https://api.anthropic.com"
OAUTH_TERMS = gettext_lazy(
    "Anthropic's terms: a subscription token is for its own holder alone; whoever offers a service to others"
    " uses API keys. By entering a token you say that it is yours and that you alone use it."
)


@dataclass(frozen=True, slots=True)
class ModelCredential:
    """An opened credential: where requests go, the secret that goes with them, and the tenant whose it is.

    `sealed` is the secret as it was stored then.
    """

    id: UUID
    kind: str
    base_url: str
    secret: str = field(repr=False)
    state: str
    tenant: Tenant
    sealed: bytes = field(repr=False)


def credential_for(tenant_id: UUID, member_id: UUID) -> ModelCredential:
    """The member's default, else the tenant's; where neither has one, the oldest. Inside the tenant's context.

    InvalidRequest where there is none at all, or it does not open; AuthenticationError for who has left.
    """
    member = Membership.objects.current().filter(id=member_id, user__is_active=True)
    usable = Credential.objects.filter(Exists(member), tenant_id=tenant_id).usable_by(member_id)
    row = usable.select_related("tenant").first()
    if row is None and not member.exists():
        raise AuthenticationError(_("The author of this message does not belong to the tenant any more."))
    if row is None:
        raise no_credential()
    try:
        secret = row.secret
    except SecretError as error:
        logger.error("Credential %s: %s", row.id, error)
        raise InvalidRequest(
            _("The credential %(name)s can't be opened on this server. Enter it again.") % {"name": row.name}
        ) from error
    row.mark_used()
    return ModelCredential(
        row.id, row.kind, row.base_url or ANTHROPIC, secret, row.state, row.tenant, bytes(row.sealed_secret)
    )


def kind_for(tenant_id: UUID, member_id: UUID) -> str | None:
    """The kind of the credential that `credential_for` would give; None where there is none."""
    usable = Credential.objects.filter(tenant_id=tenant_id).usable_by(member_id)
    return usable.values_list("kind", flat=True).first()


def no_credential() -> InvalidRequest:
    return InvalidRequest(_("There is no credential yet. Enter one under Credentials."))


def mark_credential(used: ModelCredential, state: CredentialState) -> None:
    """Keep what the model's server said to a credential, when it is news. Inside the tenant's context.

    Said too late, to a secret that was replaced meanwhile, it is said of nothing. (One that a rotation sealed anew
    looks replaced as well: the next request tells again.)
    """
    same = Credential.objects.filter(id=used.id, sealed_secret=used.sealed)
    same.exclude(state=state).update(state=state)
