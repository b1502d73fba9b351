"""The page on which a tenant's admins say what its turns may cost and what they ask for."""

from collections import Counter
from copy import copy

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from conversations.forms import BudgetForm, LeastTierForm, TenantForm
from conversations.hosts import live_hosts
from conversations.ledger import spent
from conversations.pages import TenantRequest
from conversations.surroundings import Surroundings
from tenants.models import Tenant
from tenants.roles import Action


@require_http_methods(["GET", "POST"])
def tenant_settings(request: TenantRequest, slug: str) -> HttpResponse:
    """The budget with what was spent of it, and the least sandbox tier: each a form of its own."""
    request.caller.require(Action.MANAGE_TENANT)
    tenant = Tenant.objects.get(id=request.caller.tenant_id)
    budget, sandbox = _form(request, BudgetForm, tenant), _form(request, LeastTierForm, tenant)
    for form in (budget, sandbox):
        if form.is_bound and form.is_valid():
            form.save().note_change(request.caller, form.changed_data)
            messages.success(request, form.done)
            return redirect("tenant_settings", slug)
    context = {
        "page": Surroundings.of(request.caller, section="settings"),
        "tenant": tenant,
        "spent": spent(tenant),
        "budget": budget,
        "sandbox": sandbox,
        "tiers": sorted(Counter(host.tier for host in live_hosts()).items()),
    }
    return render(request, "tenant_settings.html", context, status=400 if request.method == "POST" else 200)


def _form(request: TenantRequest, kind: type[TenantForm], tenant: Tenant) -> TenantForm:
    """Filled in where it is the one that was sent. What is wrong in it leaves `tenant` as it is."""
    sent = request.POST if request.POST.get("act") == kind.act else None
    return kind(sent, instance=copy(tenant))
