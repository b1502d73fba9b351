"""WHO: people, tenants, who belongs to which in what role, and what they bring along.

`User` is one person's sign-in, whatever tenants they belong to. All other tables belong to a tenant, are
under row-level security (see `rls`), and are seen inside `context.tenant_context` only.
"""

import uuid
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self
from uuid import UUID

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.contrib.postgres.fields import ArrayField
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from tenants.roles import Role, Scope

SLUG = r"^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$"
USED_AT_MOST_EVERY = timedelta(minutes=1)


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
    email = models.EmailField(_("e-mail"), unique=True)
    name = models.CharField(_("name"), max_length=120, blank=True)
    is_staff = models.BooleanField(_("operates the platform"), default=False)
    is_active = models.BooleanField(_("may sign in"), default=True)
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


class Tenant(models.Model):
    """An organisation or a person that everything else belongs to. `sealed_key` is its key, see `secrets`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slug = models.CharField(
        max_length=40,
        unique=True,
        validators=[RegexValidator(SLUG, _("Small letters, digits and inner hyphens, at most 40."))],
    )
    name = models.CharField(max_length=120)
    sealed_key = models.BinaryField(editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.slug


class TenantRow(models.Model):
    """A row that belongs to one tenant; row-level security shows it to nobody else."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")

    class Meta:
        abstract = True


class Membership(TenantRow):
    """A person in a tenant. Everything inside a tenant refers to its members, never to users."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    role = models.CharField(max_length=10, choices=Role.choices)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "id"], name="membership_of_tenant"),
            models.UniqueConstraint(fields=["tenant", "user"], name="membership_once"),
        ]

    def __str__(self) -> str:
        return f"{self.user} ({self.role})"


class CredentialKind(models.TextChoices):
    """What a secret is, and so how it goes to the model's server."""

    API_KEY = "api_key", _("Anthropic API key")
    OAUTH_TOKEN = "oauth_token", _("Claude subscription token")
    ENDPOINT = "endpoint", _("another server that speaks the Messages API")


class CredentialState(models.TextChoices):
    UNTRIED = "untried", _("not tried yet")
    WORKING = "working", _("working")
    REFUSED = "refused", _("refused by the server")


class CredentialQuerySet(models.QuerySet["Credential"]):
    def owned_by(self, member_id: UUID | None) -> Self:
        """Those of one member, or with None the tenant's own."""
        return self.filter(member_id=member_id)

    def usable_by(self, member_id: UUID) -> Self:
        """The member's own and the tenant's, the member's first."""
        usable = self.filter(Q(member_id=member_id) | Q(member_id=None))
        return usable.order_by(F("member_id").asc(nulls_last=True), "created_at")


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

    objects: ClassVar[models.Manager["Credential"]] = CredentialQuerySet.as_manager()

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


class ApiKey(TenantRow):
    """A key for programs: acts as one member, within its scopes. Only its hash is kept; see `keys`."""

    member = models.ForeignKey(Membership, on_delete=models.CASCADE, db_constraint=False, related_name="+")
    name = models.CharField(max_length=80)
    prefix = models.CharField(max_length=16)
    digest = models.BinaryField(max_length=32, editable=False)
    scopes = ArrayField(models.CharField(max_length=20, choices=Scope.choices))
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "id"], name="api_key_of_tenant"),
            models.UniqueConstraint(fields=["digest"], name="api_key_digest"),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


def was_just_used(last_used_at: datetime | None) -> bool:
    """Whether the note of the last use is fresh enough: it is written once a minute, not at each use."""
    return last_used_at is not None and timezone.now() - last_used_at < USED_AT_MOST_EVERY
