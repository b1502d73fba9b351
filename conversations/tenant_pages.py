"""The page on which a tenant's admins say what its turns may cost and what they ask for, and owners end it."""

from collections import Counter
from copy import copy
from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from conversations import tasks
from conversations.ending import shut_out
from conversations.forms import BudgetForm, LeastTierForm, TenantForm
from conversations.hosts import live_hosts
from conversations.ledger import spent
from conversations.pages import TenantRequest
from conversations.surroundings import Surroundings
from tenants.members import acting
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
    return _settings(request, tenant, budget, sandbox)


@require_POST
def delete_tenant(request: TenantRequest, slug: str) -> HttpResponse:
    """Shut everybody out at once, and have a runner delete the rest. Asks for the tenant's slug."""
    caller = acting(request.caller)
    caller.require(Action.DELETE_TENANT)
    tenant = Tenant.objects.get(id=caller.tenant_id)
    typed = request.POST.get("name", "")[:200]
    if typed.strip() != tenant.slug:
        forms = BudgetForm(instance=tenant), LeastTierForm(instance=tenant)
        return _settings(request, tenant, *forms, unconfirmed=tenant.id, typed=typed)
    shut_out(tenant.id)
    # With this transaction or not at all.
    tasks.delete_tenant.defer(tenant=str(tenant.id))
    return render(request, "tenant_deleted.html", {"tenant": tenant})


def _settings(
    request: TenantRequest, tenant: Tenant, budget: TenantForm, sandbox: TenantForm, **more: Any
) -> HttpResponse:
    context = {
        "page": Surroundings.of(request.caller, section="settings"),
        "tenant": tenant,
        "spent": spent(tenant),
        "budget": budget,
        "sandbox": sandbox,
        "tiers": sorted(Counter(host.tier for host in live_hosts()).items()),
        "may_delete": request.caller.may(Action.DELETE_TENANT),
    }
    # What was sent and is right leads elsewhere.
    status = 400 if request.method == "POST" else 200
    return render(request, "tenant_settings.html", context | more, status=status)


def _form(request: TenantRequest, kind: type[TenantForm], tenant: Tenant) -> TenantForm:
    """Filled in where it is the one that was sent. What is wrong in it leaves `tenant` as it is."""
    sent = request.POST if request.POST.get("act") == kind.act else None
    return kind(sent, instance=copy(tenant))
