"""Inviting people into a tenant: a link that is good once, for one role, for a week.

Only the hash of its token is kept. An invitation with an e-mail address is for the account of that address alone.
"""

import logging
import secrets
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from allauth.account.models import EmailAddress
from django.contrib.auth.password_validation import validate_password
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.core.mail import send_mail
from django.core.validators import validate_email
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from redis.exceptions import RedisError

from tenants.access import Caller
from tenants.acts import Act
from tenants.context import tenant_context
from tenants.errors import Conflict, InvalidRequest, NotFound, PermissionDenied, RateLimited
from tenants.members import acting, checked_role, right_over
from tenants.models import AuditEvent, Invitation, Membership, Tenant, User, digest_of, uuid_of
from tenants.roles import Action, Role

logger = logging.getLogger("parley.tenants")

GOOD_FOR = timedelta(days=7)
MOST_OPEN = 200
MOST_MAILS = 50
MOST_TRIES = 20
AN_HOUR = timedelta(hours=1)
LONGEST_TOKEN = 100


@dataclass(frozen=True, slots=True)
class Offer:
    """What a good link leads to. `email` is '' where anybody may take it."""

    id: UUID
    tenant_id: UUID
    tenant_slug: str
    tenant_name: str
    email: str
    role: Role
    inviter: str

    def is_for(self, email: str) -> bool:
        return self.email in ("", email)


# Inside the tenant's context ------------------------------------------------------------------------------------


def invitations_for(caller: Caller) -> list[Invitation]:
    """Those that are open, newest first."""
    caller.require(Action.MANAGE_MEMBERS)
    rows = Invitation.objects.filter(expires_at__gt=timezone.now()).order_by("-created_at")
    return list(rows.select_related("invited_by__user"))


def invite(caller: Caller, role: str, email: str = "") -> tuple[Invitation, str]:
    """A new invitation and, this once, its token; it takes the place of a former one to the same address.

    PermissionDenied, InvalidRequest; Conflict for a member's address, or where too many are open.
    """
    caller = acting(caller)
    caller.require(Action.MANAGE_MEMBERS)
    wanted, email = checked_role(role), checked_email(email)
    caller.require(right_over(wanted))
    if email and Membership.objects.current().filter(user__email=email).exists():
        raise Conflict(_("%(email)s is a member already.") % {"email": email})
    if email:
        Invitation.objects.filter(email=email).delete()
    Invitation.objects.filter(expires_at__lte=timezone.now()).delete()
    if Invitation.objects.count() >= MOST_OPEN:
        raise Conflict(_("Too many invitations are open. Revoke some first."))
    token = secrets.token_urlsafe(32)
    made = Invitation.objects.create(
        tenant_id=caller.tenant_id,
        email=email,
        role=wanted,
        digest=digest_of(token),
        invited_by_id=caller.member_id,
        expires_at=timezone.now() + GOOD_FOR,
    )
    for_one = bool(email)
    AuditEvent.objects.note(
        made.tenant_id, Act.INVITATION_MADE, caller, made.id, role=wanted.value, for_one_address=for_one
    )
    return made, token


def revoke(caller: Caller, invitation: object) -> None:
    """Its link is good no more. PermissionDenied, NotFound."""
    caller.require(Action.MANAGE_MEMBERS)
    row = Invitation.objects.filter(id=uuid_of(invitation)).first()
    if row is None:
        raise NotFound(_("There is no such invitation."))
    AuditEvent.objects.note(row.tenant_id, Act.INVITATION_REVOKED, caller, row.id)
    row.delete()


def checked_email(email: str) -> str:
    """The address in small letters, or ''; InvalidRequest for what is none."""
    email = email.strip().lower()
    try:
        if email:
            validate_email(email)
    except ValidationError:
        raise InvalidRequest(_("%(email)s is no e-mail address.") % {"email": email[:100]}) from None
    return email


# Before a tenant is known ---------------------------------------------------------------------------------------


def offer_of(token: str) -> Offer:
    """NotFound for a link that is not good, or not any more."""
    if 0 < len(token) <= LONGEST_TOKEN:
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM invitation_of(%s)", [digest_of(token)])
            if row := cursor.fetchone():
                id_, tenant, slug, name, email, role, inviter = row
                return Offer(id_, tenant, slug, name, email, Role(role), inviter)
    raise NotFound(_("This invitation was used, revoked, or has expired. Ask for a new one."))


def accept(token: str, user: User) -> Offer:
    """Make a person a member, once. NotFound; PermissionDenied for another's; Conflict for who is one already."""
    offer = offer_of(token)
    if not offer.is_for(user.email):
        raise PermissionDenied(
            _("This invitation is for %(email)s. Sign in with that address.") % {"email": offer.email}
        )
    try:
        with tenant_context(offer.tenant_id):
            # A deletion of the tenant comes before, and leaves no invitation, or after, and ends this too.
            Tenant.objects.for_sealing(offer.tenant_id)
            # The invitation goes first: of two at once the second finds it gone.
            if not Invitation.objects.filter(id=offer.id).delete()[0]:
                raise NotFound(_("This invitation was used, revoked, or has expired. Ask for a new one."))
            Tenant.objects.get(id=offer.tenant_id).enroll(user, offer.role, invited=True)
    except Tenant.DoesNotExist:
        raise NotFound(_("This invitation was used, revoked, or has expired. Ask for a new one.")) from None
    except IntegrityError:
        raise Conflict(_("You belong to %(tenant)s already.") % {"tenant": offer.tenant_name}) from None
    return offer


def accept_as_newcomer(token: str, email: str, name: str, password: str) -> User:
    """Make an account and its membership, or neither. Also InvalidRequest for an address or password that can't be.

    The address is not proved: whoever has the link may have it from another hand than the mail's.
    """
    offer = offer_of(token)
    email = checked_email(email or offer.email)
    if not email:
        raise InvalidRequest(_("An account needs an e-mail address."))
    if not _is_counted(f"newcomers:{offer.id}", MOST_TRIES):
        raise RateLimited(_("Too many tries with this invitation. Try again in an hour."), retry_after=3600)
    if User.objects.filter(email=email).exists():
        raise Conflict(_("There is an account of that address already. Sign in to accept."))
    person = User(email=email, name=name.strip()[:120])
    try:
        validate_password(password, person)
    except ValidationError as error:
        raise InvalidRequest(" ".join(error.messages)) from None
    # Hashed before the transaction: it takes half a second.
    person.set_password(password)
    try:
        with transaction.atomic():
            person.save(force_insert=True)
            EmailAddress.objects.create(user=person, email=email, primary=True, verified=False)
            accept(token, person)
    except IntegrityError:
        raise Conflict(_("There is an account of that address already. Sign in to accept.")) from None
    return person


def send(invitation: Invitation, tenant_name: str, inviter: str, link: str) -> bool:
    """Mail the link; whether it went out. Takes as long as the mail server: not inside a transaction.

    A tenant mails so many an hour: nobody shall flood others through us.
    """
    if not _is_counted(f"invitations-mailed:{invitation.tenant_id}", MOST_MAILS):
        return False
    subject = _("%(inviter)s invites you to %(tenant)s on Parley")
    text = _(
        "%(inviter)s invites you to join %(tenant)s on Parley as %(role)s.\n\n%(link)s\n\n"
        "The link is for you alone, works once, and until %(until)s. If you did not expect it, do nothing."
    )
    says = {
        "inviter": " ".join(inviter.split()),
        "tenant": " ".join(tenant_name.split()),
        "role": Role(invitation.role).label,
        "link": link,
        "until": f"{invitation.expires_at:%Y-%m-%d %H:%M} UTC",
    }
    try:
        send_mail(subject % says, text % says, None, [invitation.email])
    except OSError as error:  # smtplib's errors are of this kind too
        logger.warning("An invitation could not be mailed: %s", error)
        return False
    return True


def _is_counted(name: str, most: int) -> bool:
    """Whether it was at most the so many-th within an hour; without Redis nobody is refused, as with all rates."""
    try:
        cache.add(name, 0, AN_HOUR.total_seconds())
        return cache.incr(name) <= most
    except (RedisError, OSError, ValueError) as error:  # ValueError: it has expired in between
        logger.warning("%s could not be counted: %s", name.partition(":")[0], error)
        return True
