"""What is made from outside, by commands and the first `manage.py up`: tenants, and who operates the platform."""

import secrets
from dataclasses import asdict, dataclass, field

from allauth.account.models import EmailAddress
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.utils.translation import gettext as _

from tenants.context import tenant_context
from tenants.errors import Conflict, InvalidRequest
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


def found_tenant(slug: str, email: str, name: str = "", url: str = "", *, unproved: bool = False) -> Founded:
    """Make a tenant with its owner and an API key of all scopes; all of it, or nothing.

    An account with that e-mail stays as it is; `unproved`: though nobody has proved that the address is theirs.
    InvalidRequest or Conflict says what is wrong.
    """
    with transaction.atomic():
        owner, password = _account(email, unproved)
        membership = Tenant.objects.found(slug, name, owner)
        with tenant_context(membership.tenant_id):
            _key, plain = ApiKey.objects.issue(membership, _("First key"))
    return Founded(url=url, email=owner.email, password=password, api_key=plain, tenant=slug)


def make_platform_admin(email: str, *, unproved: bool = False) -> tuple[User, str | None]:
    """Let the account with that e-mail operate the platform; a new one comes with its password.

    Conflict where nobody has proved that the account's address is theirs, unless it may be `unproved`.
    """
    with transaction.atomic():
        user, password = _account(email, unproved)
        user.is_staff = True
        user.save(update_fields=["is_staff"])
    return user, password


def _account(email: str, unproved: bool) -> tuple[User, str | None]:
    """The account with that e-mail; a new one comes with its password."""
    email = email.strip().lower()
    if there := User.objects.filter(email=email).first():
        if not unproved and not EmailAddress.objects.filter(user=there, email=email, verified=True).exists():
            raise Conflict(
                _(
                    "There is an account of %(email)s, but whoever made it has not proved that the address is"
                    " theirs. Have them reset their password by mail, or say --unproved."
                )
                % {"email": email}
            )
        return there, None
    try:
        validate_email(email)
    except ValidationError:
        raise InvalidRequest(_("%(email)s is no e-mail address.") % {"email": email}) from None
    password = secrets.token_urlsafe(12)
    user = User.objects.create_user(email, password)
    EmailAddress.objects.create(user=user, email=email, primary=True, verified=True)
    return user, password
