"""What is made from outside, by commands and the first `manage.py up`: tenants, and who operates the platform."""

import secrets
from dataclasses import asdict, dataclass, field

from allauth.account.models import EmailAddress
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.utils.translation import gettext as _

from tenants.context import tenant_context
from tenants.errors import InvalidRequest
from tenants.models import ApiKey, Tenant, User


@dataclass(frozen=True, slots=True)
class Founded:
    """What its owner has to know; the shape of first-run.json. `password` is None for an older account."""

    url: str
    email: str
    password: str | None = field(repr=False)
    api_key: str = field(repr=False)
    tenant: str

    def as_json(self) -> dict[str, str | None]:
        return asdict(self)


def found_tenant(slug: str, email: str, name: str = "", url: str = "") -> Founded:
    """Make a tenant with its owner and an API key of all scopes; all of it, or nothing.

    An account with that e-mail stays as it is. InvalidRequest or Conflict says what is wrong.
    """
    with transaction.atomic():
        owner, password = _account(email)
        membership = Tenant.objects.found(slug, name, owner)
        with tenant_context(membership.tenant_id):
            _key, plain = ApiKey.objects.issue(membership, _("First key"))
    return Founded(url=url, email=owner.email, password=password, api_key=plain, tenant=slug)


def make_platform_admin(email: str) -> tuple[User, str | None]:
    """Let the account with that e-mail operate the platform; a new one comes with its password."""
    with transaction.atomic():
        user, password = _account(email)
        user.is_staff = True
        user.save(update_fields=["is_staff"])
    return user, password


def _account(email: str) -> tuple[User, str | None]:
    """The account with that e-mail; a new one comes with its password."""
    email = email.strip().lower()
    if there := User.objects.filter(email=email).first():
        return there, None
    try:
        validate_email(email)
    except ValidationError:
        raise InvalidRequest(_("%(email)s is no e-mail address.") % {"email": email}) from None
    password = secrets.token_urlsafe(12)
    user = User.objects.create_user(email, password)
    EmailAddress.objects.create(user=user, email=email, primary=True, verified=True)
    return user, password
