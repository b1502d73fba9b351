"""The page on which a tenant's admins say what its turns ask for."""

from collections import Counter

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from conversations.forms import LeastTierForm
from conversations.hosts import live_hosts
from conversations.pages import TenantRequest
from conversations.surroundings import Surroundings
from tenants.models import Tenant
from tenants.roles import Action


@require_http_methods(["GET", "POST"])
def tenant_settings(request: TenantRequest, slug: str) -> HttpResponse:
    """The least sandbox tier: turns wait for a runner that has it."""
    request.caller.require(Action.MANAGE_TENANT)
    tenant = Tenant.objects.get(id=request.caller.tenant_id)
    form = LeastTierForm(request.POST or None, instance=tenant)
    if request.method == "POST" and form.is_valid():
        tenant.save(update_fields=["least_tier"])
        tenant.note_change(request.caller, form.changed_data)
        messages.success(request, _("It counts from the next turn on."))
        return redirect("tenant_settings", slug)
    context = {
        "page": Surroundings.of(request.caller, section="settings"),
        "form": form,
        "tiers": sorted(Counter(host.tier for host in live_hosts()).items()),
    }
    return render(request, "tenant_settings.html", context, status=400 if form.is_bound else 200)
