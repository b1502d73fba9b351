"""WHO in the platform's admin: all people and tenants; of the chosen tenant its members, credentials and keys.

Nothing here shows a secret: of a credential its last four characters, of a key its prefix.
"""

from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy
from django.views.decorators.http import require_POST

from tenants.acts import Act
from tenants.audit import note_of_account
from tenants.authentication import memberships_of
from tenants.errors import Conflict
from tenants.members import dismiss, halt, keep_an_owner
from tenants.models import ApiKey, AuditEvent, Credential, Membership, Tenant, User
from tenants.platform import EndableRowAdmin, PlatformAdmin, TenantRowAdmin, choose, tenants_like
from tenants.roles import Role


@admin.register(User)
class UserAdmin(PlatformAdmin):
    """A person who left is stopped from signing in, not deleted: rows of many tenants refer to them."""

    fields = ("email", "name", "is_active", "is_staff", "date_joined", "last_login")
    changeable = ("name", "is_active", "is_staff")
    list_display = ("email", "name", "is_active", "is_staff", "last_login")
    list_filter = ("is_staff", "is_active")
    search_fields = ("email", "name")
    ordering = ("email",)

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> list[str]:
        """Nobody locks themselves out."""
        fixed = super().get_readonly_fields(request, obj)
        return [*fixed, "is_active", "is_staff"] if obj == request.user else fixed

    def save_model(self, request: HttpRequest, obj: User, form: "ModelForm[User]", change: bool) -> None:
        # Who may not sign in belongs nowhere, as that function sees it.
        before = memberships_of(obj)
        # Not the password, which they may have changed meanwhile.
        obj.save(update_fields=form.changed_data)
        told = {
            name: form.cleaned_data[name] for name in ("is_active", "is_staff") if name in form.changed_data
        }
        if told:
            assert isinstance(request.user, User)
            everywhere = [membership.as_caller() for membership in before or memberships_of(obj)]
            note_of_account(everywhere, Act.ACCOUNT_CHANGED, request.user, **told)
        if not obj.is_active:
            for membership in before:
                halt(membership.tenant_id, membership.member_id)


@admin.register(Tenant)
class TenantAdmin(TenantRowAdmin):
    """The list shows all tenants, to choose one of; the page of one is that of the chosen."""

    changeable = ("name", "least_tier", "ceiling_usd", "budget_usd", "budget_tokens", "allowed_models")
    fields = ("slug", *changeable, "created_at")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.admin_site.has_permission(request)

    def get_model_perms(self, request: HttpRequest) -> dict[str, bool]:
        """The list is there before a tenant is chosen."""
        return super().get_model_perms(request) | {"view": self.has_module_permission(request)}

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(require_POST(self.choose))
        return [path("<uuid:tenant_id>/choose/", view, name="choose_tenant"), *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        query = request.GET.get("q", "").replace("\0", "").strip()[:100]  # no text of a database's has it
        context = self.admin_site.each_context(request) | {
            "title": _("Tenants"),
            "opts": self.opts,
            "query": query,
            "tenants": tenants_like(query),
        }
        return TemplateResponse(request, "admin/tenants.html", context)

    def save_model(self, request: HttpRequest, obj: Tenant, form: "ModelForm[Tenant]", change: bool) -> None:
        """Only what was asked: the rest of the row, its key above all, may have changed meanwhile."""
        obj.save(update_fields=form.changed_data)
        assert isinstance(request.user, User)
        obj.note_change(request.user, form.changed_data)

    def choose(self, request: HttpRequest, tenant_id: UUID) -> HttpResponse:
        """From now on this browser looks into this tenant."""
        tenant = choose(request, tenant_id)
        messages.info(request, _("You look into the tenant %(slug)s now.") % {"slug": tenant.slug})
        return redirect("admin:index")


@admin.register(Membership)
class MembershipAdmin(EndableRowAdmin):
    """To look at, and to end: who joins is the business of the tenant's own admins."""

    verb = _lazy("End membership")
    consequence = _lazy(
        "Their sessions close within five seconds. Their keys and credentials in this tenant are deleted, their"
        " running answers stop. What they shared stays readable; what was private nobody sees, unless they come"
        " back."
    )
    fields = ("user", "role", "created_at", "left_at")
    list_display = ("user", "role", "created_at", "left_at")
    list_filter = ("role",)
    list_select_related = ("user",)
    search_fields = ("user__email",)

    def is_over(self, membership: Membership) -> bool:
        return membership.left_at is not None

    def named(self, membership: Membership) -> str:
        return f"{membership.user.email} ({Role(membership.role).label})"

    def hindrances(self, membership: Membership) -> list[str]:
        try:
            keep_an_owner(membership)
        except Conflict as error:
            return [error.message]
        return []

    def end(self, membership: Membership, by: User) -> None:
        dismiss(by, membership.tenant_id, membership.id)


@admin.register(Credential)
class CredentialAdmin(TenantRowAdmin):
    fields = (
        "name",
        "kind",
        "base_url",
        "last4",
        "owner",
        "is_default",
        "state",
        "last_used_at",
        "created_at",
    )
    list_display = ("name", "kind", "last4", "owner", "is_default", "state", "last_used_at")

    @admin.display(description=_lazy("Owner"))
    def owner(self, credential: Credential) -> str:
        return credential.owner


@admin.register(ApiKey)
class ApiKeyAdmin(EndableRowAdmin):
    verb = _lazy("Revoke key")
    consequence = _lazy("Programs that use it are cut off within five seconds. This can't be undone.")
    fields = ("name", "prefix", "acts_as", "scopes", "expires_at", "last_used_at", "created_at")
    list_display = ("name", "prefix", "acts_as", "scopes", "expires_at", "last_used_at")
    list_select_related = ("member__user",)

    @admin.display(description=_lazy("Acts as"))
    def acts_as(self, key: ApiKey) -> str:
        return key.member.user.email

    def named(self, key: ApiKey) -> str:
        return f"{key} · {key.member.user.email}"

    def end(self, key: ApiKey, by: User) -> None:
        key.revoke(by)


@admin.register(AuditEvent)
class AuditEventAdmin(TenantRowAdmin):
    """To look at; nobody changes it, not even here."""

    fields = ("number", "at", "act", "via", "actor_id", "key_id", "about", "details")
    list_display = ("number", "at", "act", "via", "actor_id", "about", "details")
    list_filter = ("act", "via")
    ordering = ("-number",)
