"""WHAT in the platform's admin: the isolation of all runner hosts, and what a tenant's conversations do.

Platform admins see no text of a conversation: neither its title, which is its first message, nor a turn's words.
"""

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy

from conversations.hosts import live_hosts
from conversations.isolation import is_red, probe_names, reports
from conversations.models import Conversation, RunnerHost
from tenants.platform import PlatformAdmin, TenantRowAdmin


@admin.register(RunnerHost)
class RunnerHostAdmin(PlatformAdmin):
    """The isolation page. A host that is silent can be forgotten, and with it that files lie on it."""

    fields = ("name", "tier", "tier_reason", "refuses", "cli_version", "processes", "started_at", "seen_at")

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        hosts = reports()
        names = probe_names(hosts)
        context = self.admin_site.each_context(request) | {
            "title": _("Isolation"),
            "opts": self.opts,
            "hosts": hosts,
            "rows": [(name, [report.probe(name) for report in hosts]) for name in names],
            "is_red": is_red(hosts),
        }
        return TemplateResponse(request, "admin/isolation.html", context)

    def has_delete_permission(self, request: HttpRequest, obj: RunnerHost | None = None) -> bool:
        return self.has_view_permission(request) and obj is not None and obj not in live_hosts()


@admin.register(Conversation)
class ConversationAdmin(TenantRowAdmin):
    fields = ("id",)
    list_display = (
        "id", "author_email", "turn_count", "holder", "files_on", "last_seq", "created_at", "updated_at"
    )  # fmt: skip
    list_display_links = None
    ordering = ("-updated_at",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Conversation]:
        rows: QuerySet[Conversation] = super().get_queryset(request).filter(last_seq__gt=0).defer("title")
        return rows.select_related("author__user").annotate(turn_count=Count("turns"))

    def change_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """There is nothing more to see of it than the list shows: Django's page has its title."""
        raise Http404

    history_view = change_view

    @admin.display(description=_lazy("author"))
    def author_email(self, conversation: Conversation) -> str:
        return conversation.author.user.email

    @admin.display(description=_lazy("turns"), ordering="turn_count")
    def turn_count(self, conversation: Conversation) -> int:
        return conversation.turn_count  # type: ignore[attr-defined,no-any-return]  # annotated
