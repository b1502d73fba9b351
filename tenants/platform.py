"""The site of those who operate the platform: Django's admin at /admin/, inside one tenant at a time.

Who operates it (`User.is_staff`) crosses tenants by naming one: they choose a tenant, and each page then runs in
its context, under the same row-level security as everything else. No page adds rows to a tenant, so that a form
of one tenant that is sent after another one was chosen finds nothing instead of changing the wrong one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.views import redirect_to_login
from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy

from tenants.acts import Act
from tenants.context import tenant_context
from tenants.models import AuditEvent, Tenant, User

# Generic for the type checker only.
if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

CHOSEN = "platform_tenant"
LISTED = 200


@dataclass(frozen=True, slots=True)
class Listed:
    """A tenant as the list of all shows it."""

    id: UUID
    slug: str
    name: str
    created_at: datetime


def tenants_like(text: str) -> list[Listed]:
    """The first tenants by slug, all or those with `text` in slug or name."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, slug, name, created_at FROM list_tenants(%s, %s)", [text, LISTED])
        return [Listed(*row) for row in cursor.fetchall()]


def may_operate(request: HttpRequest) -> bool:
    """Whether a platform admin asks."""
    user = request.user
    return isinstance(user, User) and user.is_active and user.is_staff


def choose(request: HttpRequest, tenant_id: UUID) -> Tenant:
    """Show this tenant's rows to this browser from now on; Http404 where there is none."""
    tenant = _tenant(tenant_id)
    if tenant is None:
        raise Http404
    assert isinstance(request.user, User)
    with tenant_context(tenant_id):
        AuditEvent.objects.note(tenant_id, Act.OPERATOR_ENTERED, request.user)
    request.session[CHOSEN] = str(tenant_id)
    return tenant


def chosen_tenant(request: HttpRequest) -> Tenant | None:
    """The tenant whose rows this browser sees."""
    chosen = request.session.get(CHOSEN)
    return _tenant(UUID(chosen)) if chosen else None


def _tenant(tenant_id: UUID) -> Tenant | None:
    with tenant_context(tenant_id):
        return Tenant.objects.filter(id=tenant_id).first()


class PlatformSite(admin.AdminSite):
    """For platform admins. Others get 404, and those who are not signed in the one page of sign-in."""

    site_header = _lazy("Parley: the platform")
    site_title = _lazy("Parley")
    index_title = _lazy("Platform")
    index_template = "admin/platform.html"

    def has_permission(self, request: HttpRequest) -> bool:
        return may_operate(request)

    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        """Ours only: what libraries would show here knows nothing of who may see it."""
        if admin_class is not None and issubclass(admin_class, PlatformAdmin):
            super().register(model_or_iterable, admin_class, **options)

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        return super().admin_view(_in_chosen_tenant(view), cacheable)

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Sign-in is allauth's, with its limits. Where it would lead back to here, this is not their site."""
        if may_operate(request):
            return redirect("admin:index")
        if request.user.is_authenticated:
            raise Http404
        return redirect_to_login(request.GET.get(REDIRECT_FIELD_NAME) or request.get_full_path())

    # Typed by Django for its own pages; any answer will do.

    def logout(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        return redirect("account_logout")

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        return redirect("account_change_password")

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        return super().each_context(request) | {"chosen_tenant": getattr(request, "chosen_tenant", None)}


def _in_chosen_tenant(view: Callable[..., Any]) -> Callable[..., Any]:
    """The view, answered and rendered in the context of the chosen tenant, if any."""

    @wraps(view)
    def named(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        chosen = chosen_tenant(request)
        request.chosen_tenant = chosen  # type: ignore[attr-defined]
        if chosen is None:
            return view(request, *args, **kwargs)  # type: ignore[no-any-return]
        with tenant_context(chosen.id):
            answer = view(request, *args, **kwargs)
            render = getattr(answer, "render", None)
            return render() if callable(render) else answer  # type: ignore[no-any-return]

    return named


class PlatformAdmin(ModelAdmin):
    """Rows of the whole platform: to look at, and to change in the fields named by `changeable` only."""

    changeable: tuple[str, ...] = ()
    actions = None

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [name for name in self.get_fields(request, obj) if name not in self.changeable]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Always named one by one: a column that is new shows nowhere by itself."""
        assert self.fields, f"{type(self).__name__} names its fields"
        return self.fields

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        """What the filters at the side ask, and no other column: an address can ask for any, sign by sign."""
        return lookup.removesuffix("__exact") in self.list_filter

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may_operate(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(self.changeable) and self.has_view_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class TenantRowAdmin(PlatformAdmin):
    """Rows of the chosen tenant; without one there is nothing to see."""

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may_operate(request) and getattr(request, "chosen_tenant", None) is not None


class EndableRowAdmin(TenantRowAdmin):
    """Rows that a platform admin may also end, after a page that says what that means."""

    verb: Any
    consequence: Any
    delete_confirmation_template = "admin/end.html"

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_view_permission(request, obj) and (obj is None or not self.is_over(obj))

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        return [*super().get_list_display(request), "end_link"]

    @admin.display(description=_lazy("End"))
    def end_link(self, obj: Any) -> str:
        if self.is_over(obj):
            return ""
        way = reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_delete", args=[obj.pk])
        return format_html('<a href="{}">{}</a>', way, self.verb)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> Any:
        says = {"title": self.verb, "verb": self.verb, "consequence": self.consequence}
        return super().delete_view(request, object_id, says | (extra_context or {}))

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """The row alone, in words, and what stands in the way: Django would show all that refers to it."""
        return (
            [self.named(obj) for obj in objs],
            {},
            set(),
            [one for obj in objs for one in self.hindrances(obj)],
        )

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        """The tenant's audit has it. Django's log would keep the row's name, and outlive the tenant."""

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        assert isinstance(request.user, User)
        self.end(obj, request.user)

    def response_delete(self, request: HttpRequest, obj_display: str, obj_id: Any) -> HttpResponse:
        messages.success(request, _("Done. It counts within five seconds."))
        return redirect(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist")

    def named(self, obj: Any) -> str:
        return str(obj)

    def is_over(self, obj: Any) -> bool:
        return False

    def end(self, obj: Any, by: User) -> None:
        raise NotImplementedError

    def hindrances(self, obj: Any) -> list[str]:
        return []
