"""WHO: people, tenants, who belongs to which in what role, what they bring along, and what was done by whom.

`User` is one person's sign-in, whatever tenants they belong to. All other tables belong to a tenant, are
under row-level security (see `rls`), and are seen inside `context.tenant_context` only.
"""

import hashlib
import json
import re
import secrets
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar, Literal, Self
from uuid import UUID

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.contrib.postgres.fields import ArrayField
from django.core.validators import MinValueValidator, RegexValidator
from django.db import IntegrityError, connection, models
from django.db.models import F, Q
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy

from tenants.access import Caller
from tenants.acts import Act, Via
from tenants.context import tenant_context
from tenants.drafts import CredentialDraft, checked_name
from tenants.errors import AuthenticationError, Conflict, InvalidRequest, NotFound, PermissionDenied
from tenants.key_parts import destroy_part
from tenants.roles import ALL_SCOPES, Action, CredentialKind, CredentialState, LeastTier, Role, Scope
from tenants.secrets import new_tenant_key, seal, unseal

SECRET_FIELD = "credential.secret"
SLUG = r"^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$"
NOTED_EVERY = timedelta(minutes=1)
LONGEST_LIFE = timedelta(days=3653)
MOST_KEYS = 50


class ClockTimestamp(models.Func):
    """This moment, also within a transaction."""

    template = "clock_timestamp()"
    output_field = models.DateTimeField()


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """A person with a sign-in. Without a password nobody can sign in as them."""
        user = self.model(email=email.strip().lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> "User":
        return self.get(email=(username or "").lower())


class User(AbstractBaseUser, PermissionsMixin):
    """A person. The e-mail, in small letters, is the login."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField(_lazy("e-mail"), unique=True)
    name = models.CharField(_lazy("name"), max_length=120, blank=True)
    is_staff = models.BooleanField(_lazy("operates the platform"), default=False)
    is_active = models.BooleanField(_lazy("may sign in"), default=True)
    date_joined = models.DateTimeField(default=timezone.now)

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    objects: ClassVar[UserManager] = UserManager()

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(email=Lower("email")), name="user_email_in_small_letters")
        ]

    def __str__(self) -> str:
        return self.email

    def get_full_name(self) -> str:
        return self.name or self.email

    def get_short_name(self) -> str:
        return self.name or self.email.partition("@")[0]

    def is_called(self, text: str) -> bool:
        """Whether that is their name or their e-mail, as somebody types it."""
        typed = " ".join(text.split()).casefold()
        return bool(typed) and typed in (self.email.casefold(), " ".join(self.name.split()).casefold())


class TenantManager(models.Manager["Tenant"]):
    def found(self, slug: str, name: str, owner: User) -> "Membership":
        """A new tenant with its key and its owner. InvalidRequest for a bad slug, Conflict for a taken one."""
        if not re.fullmatch(SLUG, slug):
            raise InvalidRequest(
                _(
                    "A slug has 1 to 40 small letters, digits and inner hyphens, as in: acme-labs. Not: %(slug)s"
                )
                % {"slug": slug}
            )
        tenant = Tenant(slug=slug, name=name or slug)
        tenant.sealed_key = new_tenant_key(tenant.id)
        try:
            with tenant_context(tenant.id):
                tenant.save(force_insert=True)
                AuditEvent.objects.note(tenant.id, Act.TENANT_FOUNDED)
                return tenant.enroll(owner, Role.OWNER)
        except IntegrityError:
            destroy_part(tenant.id)
            raise Conflict(_("The slug %(slug)s is taken.") % {"slug": slug}) from None

    def for_sealing(self, tenant_id: UUID) -> "Tenant":
        """The tenant, its row locked: what is sealed until the transaction ends is sealed with a key that stays.

        Inside the tenant's context. Tenant.DoesNotExist where it was deleted.
        """
        return self.select_for_update(no_key=True).get(id=tenant_id)


class Tenant(models.Model):
    """An organisation or a person that everything else belongs to. `sealed_key` is its key, see `secrets`.

    `least_tier`: its turns run on no host with a weaker sandbox; '' takes whatever the operator runs.
    `budget_usd` and `budget_tokens` are what its requests to models may come to in a calendar month of UTC
    (None: no limit), `allowed_models` the only ones that they may name (empty: all): its admins set all three.
    `ceiling_usd` is the operator's, who may let a tenant spend less than it would.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slug = models.CharField(
        max_length=40,
        unique=True,
        validators=[RegexValidator(SLUG, _lazy("Small letters, digits and inner hyphens, at most 40."))],
    )
    name = models.CharField(max_length=120)
    sealed_key = models.BinaryField(editable=False)
    least_tier = models.CharField(
        _lazy("least sandbox"),
        max_length=20,
        choices=LeastTier.choices,
        blank=True,
        help_text=_lazy("Turns wait for a host that is good enough. Empty: whatever the operator runs."),
    )
    budget_usd = models.DecimalField(
        _lazy("budget a month, in USD"),
        max_digits=12,
        decimal_places=2,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
    )
    budget_tokens = models.PositiveBigIntegerField(_lazy("budget a month, in tokens"), null=True, blank=True)
    allowed_models = ArrayField(
        models.CharField(max_length=120), verbose_name=_lazy("allowed models"), default=list, blank=True
    )
    ceiling_usd = models.DecimalField(
        _lazy("ceiling a month, in USD"),
        max_digits=12,
        decimal_places=2,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text=_lazy(
            "The tenant's own admins can't change this one. The lower of it and the budget counts."
        ),
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[TenantManager] = TenantManager()

    def __str__(self) -> str:
        return self.slug

    @property
    def limit_usd(self) -> Decimal | None:
        """What its requests may come to in a month: the lower of its budget and the operator's ceiling."""
        return min((one for one in (self.budget_usd, self.ceiling_usd) if one is not None), default=None)

    def note_change(self, by: "Caller | User | None", changed: Iterable[str]) -> None:
        """Into the audit: which settings changed, and to what, but for names."""
        told = {name: None if name == "name" else getattr(self, name) for name in sorted(changed)}
        if told:
            AuditEvent.objects.note(self.id, Act.TENANT_CHANGED, by, self.id, changed=told)

    def enroll(self, user: User, role: Role, *, invited: bool = False) -> "Membership":
        """Make a person a member, or one again who had left: by a command, or `invited`.

        Inside the tenant's context. IntegrityError where they are one.
        """
        row = Membership.objects.filter(user=user, left_at__isnull=False).first()
        if row is None:
            row = Membership.objects.create(tenant=self, user=user, role=role)
        else:
            row.role, row.left_at = role, None
            row.save(update_fields=["role", "left_at"])
        act, by = (Act.MEMBER_JOINED, row.as_caller()) if invited else (Act.MEMBER_ADDED, None)
        AuditEvent.objects.note(self.id, act, by, row.id, role=role.value)
        return row


class TenantRow(models.Model):
    """A row that belongs to one tenant; row-level security shows it to nobody else."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")

    class Meta:
        abstract = True


class AuditEventManager(models.Manager["AuditEvent"]):
    """Inside the tenant's context, as everything here."""

    def note(
        self,
        tenant_id: UUID,
        act: Act,
        by: "Caller | User | None" = None,
        about: UUID | None = None,
        **details: Any,
    ) -> None:
        """Add to the tenant's audit, in the transaction of the act itself: both are kept, or neither.

        `by`: a member, somebody who operates the platform, or None for a command. `about`: the id of what was
        acted upon. `details` go into JSON and hold ids, numbers and words of ours, no person's.
        """
        via, actor_id, key_id = _actor(by)
        told = json.dumps(details, default=str)
        entry: list[Any] = [uuid.uuid4(), tenant_id, act.value, via.value, actor_id, key_id, about, told]
        with connection.cursor() as cursor:
            # Named one by one: the application may write no other column, the database fills them in.
            cursor.execute(
                "INSERT INTO tenants_auditevent (id, tenant_id, act, via, actor_id, key_id, about, details)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s::jsonb)",
                entry,
            )


class AuditEvent(models.Model):
    """One security-relevant act. The application adds rows and can neither change nor delete them.

    `number` counts up by one in each tenant; `digest` is the SHA-256 of the event and of the digest before it. The
    database sets both when the act's transaction commits. `actor_id` is a member's id, or a user's where `via` is
    `operator`. Only ids of people stand here, so that the chain outlives their names.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.DB_CASCADE, related_name="+")
    number = models.BigIntegerField(null=True, editable=False)
    at = models.DateTimeField(db_default=ClockTimestamp(), editable=False)
    act = models.CharField(max_length=40, choices=Act.choices)
    via = models.CharField(max_length=10, choices=Via.choices)
    actor_id = models.UUIDField(null=True)
    key_id = models.UUIDField(null=True)
    about = models.UUIDField(null=True)
    details = models.JSONField(default=dict)
    digest = models.BinaryField(null=True, editable=False)

    objects: ClassVar[AuditEventManager] = AuditEventManager()

    class Meta:
        verbose_name = _lazy("audit event")
        verbose_name_plural = _lazy("audit")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "number"], name="audit_event_number")
        ]
        indexes: ClassVar = [
            models.Index(fields=["tenant", "actor_id", "act", "at"], name="audit_event_of_actor")
        ]

    def __str__(self) -> str:
        return f"{self.number} {self.act}"


def _actor(by: "Caller | User | None") -> tuple[Via, UUID | None, UUID | None]:
    if isinstance(by, Caller):
        return Via(by.via), by.member_id, by.key_id
    return (Via.OPERATOR, by.id, None) if by is not None else (Via.COMMAND, None, None)


class MembershipQuerySet(models.QuerySet["Membership"]):
    """Inside the tenant's context, as everything here."""

    def current(self) -> Self:
        """Those who belong to the tenant now."""
        return self.filter(left_at=None)


class Membership(TenantRow):
    """A person in a tenant. Everything inside a tenant refers to its members, never to users.

    Who has left keeps their row, so that what they wrote keeps its author; `members` ends belonging.
    """

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    role = models.CharField(max_length=10, choices=Role.choices)
    created_at = models.DateTimeField(auto_now_add=True)
    left_at = models.DateTimeField(null=True, blank=True)

    objects = MembershipQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "id"], name="membership_of_tenant"),
            models.UniqueConstraint(fields=["tenant", "user"], name="membership_once"),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} ({self.role})"

    def as_caller(self) -> Caller:
        """This member, acting for themselves with all they may."""
        return Caller(self.tenant_id, self.tenant.slug, self.id, self.user_id, Role(self.role))

    def withdraw_invitations(self) -> None:
        """What they invited others to may be more than they may give now."""
        Invitation.objects.filter(invited_by=self).delete()


class CredentialQuerySet(models.QuerySet["Credential"]):
    """Inside the tenant's context, as everything here."""

    def usable_by(self, member_id: UUID) -> Self:
        """The member's and the tenant's; defaults first, of those the member's own first."""
        usable = self.filter(Q(member_id=member_id) | Q(member_id=None))
        return usable.order_by("-is_default", F("member_id").asc(nulls_last=True), "created_at")

    def of(self, caller: Caller, credential: object, *, writing: bool = False) -> "Credential":
        """One that the caller may see, for `writing` with its row and its tenant's locked.

        NotFound, or PermissionDenied.
        """
        caller.require(Action.SEE_CREDENTIALS)
        rows = self.usable_by(caller.member_id).select_related("tenant")
        if writing:
            _tenant_of_member(caller)
            rows = rows.select_for_update(of=("self",))
        row = rows.filter(id=uuid_of(credential)).first()
        if row is None:
            raise NotFound(_("There is no such credential."))
        if writing:
            caller.require(row.right_to_change)
        return row

    def create_for(
        self,
        caller: Caller,
        draft: CredentialDraft,
        *,
        default: bool = False,
        owner: Literal["tenant", "member"] | None = None,
    ) -> "Credential":
        """Keep a credential; its owner is the tenant where the caller may say so, else the caller."""
        owner = owner or ("tenant" if caller.may(Action.MANAGE_CREDENTIALS) else "member")
        caller.require(Action.MANAGE_CREDENTIALS if owner == "tenant" else Action.KEEP_CREDENTIALS)
        credential = Credential(
            tenant=_tenant_of_member(caller),
            member_id=caller.member_id if owner == "member" else None,
            name=draft.name,
            kind=draft.kind,
            base_url=draft.base_url,
        )
        credential.secret = draft.secret
        credential.save(force_insert=True)
        credential.note(Act.CREDENTIAL_MADE, caller, kind=draft.kind, owner=owner, default=default)
        if default:
            credential.make_default()
        return credential


def _tenant_of_member(caller: Caller) -> Tenant:
    """The caller's tenant, its row locked. AuthenticationError for who was removed after they were looked up."""
    tenant = Tenant.objects.for_sealing(caller.tenant_id)
    if not Membership.objects.current().filter(id=caller.member_id).exists():
        raise AuthenticationError
    return tenant


class Credential(TenantRow):
    """A secret for a model's server, sealed; of a member, or of the whole tenant (`member` null).

    See `credentials` for how they are made and chosen, and `base_url` is '' but for kind `endpoint`.
    """

    member = models.ForeignKey(
        Membership, on_delete=models.CASCADE, db_constraint=False, null=True, blank=True, related_name="+"
    )
    name = models.CharField(max_length=80)
    kind = models.CharField(max_length=12, choices=CredentialKind.choices)
    base_url = models.CharField(max_length=500, blank=True)
    sealed_secret = models.BinaryField(editable=False)
    last4 = models.CharField(max_length=4, blank=True)
    is_default = models.BooleanField(default=False)
    state = models.CharField(max_length=10, choices=CredentialState.choices, default=CredentialState.UNTRIED)
    last_used_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = CredentialQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "id"], name="credential_of_tenant"),
            models.UniqueConstraint(
                fields=["tenant", "member"],
                condition=Q(is_default=True),
                nulls_distinct=False,
                name="credential_one_default_an_owner",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def owner(self) -> Literal["tenant", "member"]:
        return "tenant" if self.member_id is None else "member"

    @property
    def right_to_change(self) -> Action:
        return Action.MANAGE_CREDENTIALS if self.member_id is None else Action.KEEP_CREDENTIALS

    @property
    def secret(self) -> str:
        """Opened; SecretError where the ciphertext does not belong here."""
        return unseal(self.tenant, SECRET_FIELD, self.id, self.sealed_secret)

    @secret.setter
    def secret(self, text: str) -> None:
        self.sealed_secret = seal(self.tenant, SECRET_FIELD, self.id, text)
        self.last4 = text[-4:] if len(text) > 4 else ""
        self.state = CredentialState.UNTRIED

    def note(self, act: Act, by: Caller, **details: Any) -> None:
        """Into the audit."""
        AuditEvent.objects.note(self.tenant_id, act, by, self.id, **details)

    def forget(self, by: Caller) -> None:
        """Delete it, secret and all."""
        self.note(Act.CREDENTIAL_DELETED, by, kind=self.kind, owner=self.owner)
        self.delete()

    def make_default(self) -> None:
        """The one that its owner's conversations use from their next turn on; the former one steps down."""
        # One at a time in a tenant: two at once would both find no former default.
        Tenant.objects.for_sealing(self.tenant_id)
        rivals = Credential.objects.filter(tenant_id=self.tenant_id, member_id=self.member_id)
        rivals.filter(is_default=True).exclude(id=self.id).update(is_default=False)
        rivals.filter(id=self.id).update(is_default=True)
        self.is_default = True

    def mark_used(self) -> None:
        """Keep that it was used, at most once a minute."""
        if not was_just_used(self.last_used_at):
            Credential.objects.filter(id=self.id).update(last_used_at=timezone.now())


def hold_member(member: UUID) -> None:
    """Lock a member's row, before any of their keys: these are made and changed one after the other."""
    Membership.objects.select_for_update(of=("self",), no_key=True).filter(id=member).first()


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    """Inside the tenant's context, as everything here."""

    def seen_by(self, caller: Caller) -> Self:
        """The caller's own, or everybody's for who may manage them; newest first."""
        keys = self.select_related("member__user").order_by("-created_at", "id")
        return keys if caller.may(Action.MANAGE_KEYS) else keys.filter(member_id=caller.member_id)

    def of(self, caller: Caller, key: object, *, writing: bool = False) -> "ApiKey":
        """One that the caller may see and so may revoke; for `writing` one of their own, its row locked.

        NotFound, or PermissionDenied: whoever changes or rotates a key could act as its member.
        """
        keys = self.seen_by(caller).filter(id=uuid_of(key))
        if writing:
            hold_member(caller.member_id)
        row = (keys.select_for_update(of=("self",)) if writing else keys).first()
        if row is None:
            raise NotFound(_("There is no such API key."))
        if writing:
            caller.require(Action.KEEP_KEYS)
            if row.member_id != caller.member_id:
                raise PermissionDenied(_("This key acts as somebody else. You may revoke it."))
        return row

    def issue_for(
        self, caller: Caller, name: str, scopes: Iterable[str], expires_at: datetime | None = None
    ) -> tuple["ApiKey", str]:
        """A new key of the caller and, this once, its text; with no more than the caller's own key has."""
        caller.require(Action.KEEP_KEYS)
        if not caller.scopes.issuperset(scopes):
            raise PermissionDenied(_("A key can't make a key with more scopes than it has."))
        # A removal that is under way ends this, or deletes the key.
        hold_member(caller.member_id)
        rows = Membership.objects.current().select_related("user")
        membership = rows.filter(id=caller.member_id).first()
        if membership is None or (caller.key_id and not self.filter(id=caller.key_id).exists()):
            raise AuthenticationError
        if self.filter(member=membership).count() >= MOST_KEYS:
            raise Conflict(_("You have %(most)d keys. Revoke some first.") % {"most": MOST_KEYS})
        return self.issue(membership, name, scopes, self._outlived(caller, expires_at), by=caller)

    def issue(
        self,
        membership: Membership,
        name: str,
        scopes: Iterable[str] = ALL_SCOPES,
        expires_at: datetime | None = None,
        by: Caller | None = None,
    ) -> tuple["ApiKey", str]:
        """A new key and, this once, its text. Every key may read. `by`: None where a command makes it.

        InvalidRequest for unknown scopes or a time that has passed.
        """
        scopes = sorted({Scope.READ.value, *scopes})
        if not ALL_SCOPES.issuperset(scopes):
            raise InvalidRequest(_("scopes are some of: %(all)s.") % {"all": ", ".join(sorted(ALL_SCOPES))})
        prefix = secrets.token_hex(4)
        plain = f"parley_{prefix}_{secrets.token_urlsafe(32)}"
        key = self.create(
            tenant_id=membership.tenant_id,
            member=membership,
            name=checked_name(name),
            prefix=prefix,
            digest=digest_of(plain),
            scopes=scopes,
            expires_at=checked_future(expires_at),
            made_by=by.key_id if by else None,
        )
        key.note(Act.API_KEY_MADE, by, scopes=scopes, expires_at=key.expires_at)
        return key, plain

    def _outlived(self, caller: Caller, expires_at: datetime | None) -> datetime | None:
        """When a key that the caller makes expires: never after the key that it was made with."""
        if caller.key_id is None:
            return expires_at
        own = self.filter(id=caller.key_id).values_list("expires_at", flat=True).first()
        times = [time for time in (checked_future(expires_at), own) if time is not None]
        return min(times, default=None)


class ApiKey(TenantRow):
    """A key for programs: acts as one member, within its scopes. Only its hash is kept."""

    member = models.ForeignKey(Membership, on_delete=models.CASCADE, db_constraint=False, related_name="+")
    name = models.CharField(max_length=80)
    prefix = models.CharField(max_length=16)
    digest = models.BinaryField(max_length=32, editable=False)
    scopes = ArrayField(models.CharField(max_length=20, choices=Scope.choices))
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    # The key that it was made with, always one of the same member; null where a person or a command made it.
    made_by = models.UUIDField(null=True, blank=True, editable=False)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "id"], name="api_key_of_tenant"),
            # Across tenants: a key is found before its tenant is known. A digest tells nobody anything.
            models.UniqueConstraint(fields=["digest"], name="api_key_digest"),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()

    def note(self, act: Act, by: "Caller | User | None", **details: Any) -> None:
        """Into the audit."""
        AuditEvent.objects.note(self.tenant_id, act, by, self.id, **details)

    def rename(self, name: str) -> None:
        self.name = checked_name(name)
        self.save(update_fields=["name"])

    def made_with(self, keys: Iterable["ApiKey"]) -> list["ApiKey"]:
        """Those of `keys` that were made with this one, or with one that was."""
        made, makers = [], {self.id}
        for key in sorted(keys, key=lambda key: key.created_at):
            if key.made_by in makers:
                made.append(key)
                makers.add(key.id)
        return made

    def revoke(self, by: "Caller | User", *, with_made: bool = False) -> None:
        """Nobody can use it any more; `with_made`: nor those that were made with it."""
        hold_member(self.member_id)
        made = self.made_with(ApiKey.objects.filter(member_id=self.member_id)) if with_made else []
        ApiKey.objects.filter(made_by=self.id).update(made_by=self.made_by)
        for key in (self, *made):
            key.note(Act.API_KEY_REVOKED, by)
            key.delete()

    def expire_at(self, time: datetime | None, caller: Caller) -> None:
        """InvalidRequest for a time that has passed; no later than the key that the caller came with."""
        self.expires_at = ApiKey.objects.all()._outlived(caller, checked_future(time))
        self.save(update_fields=["expires_at"])
        self.note(Act.API_KEY_CHANGED, caller, expires_at=self.expires_at)

    def rotate(self, caller: Caller, overlap_seconds: int) -> tuple["ApiKey", str]:
        """A new key with the same rights, for as long as this one was made for; this one ends after the overlap.

        Conflict where it has expired already.
        """
        if self.has_expired:
            raise Conflict(_("This key has expired. Make a new one."))
        now = timezone.now()
        lived = self.expires_at - self.created_at if self.expires_at else None
        until = min(now + lived, latest_expiry()) if lived is not None else None
        made = ApiKey.objects.all().issue_for(caller, self.name, self.scopes, until)
        ends = now + timedelta(seconds=overlap_seconds)
        self.expires_at = min(ends, self.expires_at) if self.expires_at else ends
        self.save(update_fields=["expires_at"])
        self.note(Act.API_KEY_ROTATED, caller, new_key=made[0].id, expires_at=self.expires_at)
        return made

    def mark_used(self) -> None:
        """Keep that it was used, at most once a minute."""
        if not was_just_used(self.last_used_at):
            ApiKey.objects.filter(id=self.id).update(last_used_at=timezone.now())


class Invitation(TenantRow):
    """A link by which one person becomes a member, once, until it expires. Only the hash of its token is kept.

    With an `email` it is for the account of that address alone. Accepted or revoked, its row is gone; `invitations`
    makes and takes them.
    """

    email = models.EmailField(blank=True)
    role = models.CharField(max_length=10, choices=Role.choices)
    digest = models.BinaryField(max_length=32, editable=False)
    invited_by = models.ForeignKey(
        Membership, on_delete=models.CASCADE, db_constraint=False, related_name="+"
    )
    expires_at = models.DateTimeField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "id"], name="invitation_of_tenant"),
            # Across tenants, as a key's: found before its tenant is known.
            models.UniqueConstraint(fields=["digest"], name="invitation_digest"),
        ]

    def __str__(self) -> str:
        return f"{self.email or 'link'} ({self.role})"


def was_just_used(last_used_at: datetime | None) -> bool:
    """Whether the note of the last use is fresh enough: it is written once a minute, not at each use."""
    return last_used_at is not None and timezone.now() - last_used_at < NOTED_EVERY


def checked_future(time: datetime | None) -> datetime | None:
    """The time, or InvalidRequest where it has passed; one without a zone is in UTC."""
    if time is not None and timezone.is_naive(time):
        time = time.replace(tzinfo=UTC)
    if time is not None and time <= timezone.now():
        raise InvalidRequest(_("expires_at has passed already."))
    if time is not None and time > latest_expiry():
        raise InvalidRequest(_("expires_at is more than ten years away."))
    return time


def latest_expiry() -> datetime:
    return timezone.now() + LONGEST_LIFE


def digest_of(key: str) -> bytes:
    """What is kept of an API key. Its text is random enough that a slow hash would add nothing."""
    return hashlib.sha256(key.encode()).digest()


def uuid_of(text: object) -> UUID:
    """An id as a UUID. What is no UUID names nothing: NotFound."""
    try:
        return text if isinstance(text, UUID) else UUID(str(text))
    except ValueError:
        raise NotFound() from None
