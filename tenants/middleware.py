"""What every request gets: an id, and a count where it is for a page.
On a tenant's pages: who is acting there, with the tenant named.
"""

import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from inspect import iscoroutinefunction, markcoroutinefunction
from ipaddress import IPv6Address, ip_interface
from typing import Any, ClassVar

from django.contrib.auth import SESSION_KEY
from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.urls import get_resolver

from tenants.access import Caller
from tenants.audit import REFUSALS, call_of, note_refusal, note_refusal_of_tenant, object_of
from tenants.authentication import memberships_of
from tenants.context import tenant_context
from tenants.errors import ApiError, RateLimited
from tenants.models import User
from tenants.rates import rates
from tenants.sign_ins import note_first_act

# What is shown there is one person's: no cache on the way keeps it for another.
PRIVATE = ("/v1/", "/t/")
PROBES = frozenset({"/health", "/ready", "/metrics"})

type Answer = HttpResponseBase | Awaitable[HttpResponseBase]


class _Middleware:
    """Works in both worlds; nothing here waits for anything before the view."""

    sync_capable: ClassVar[bool] = True
    async_capable: ClassVar[bool] = True

    def __init__(self, get_response: Callable[[HttpRequest], Answer]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Answer:
        return self.get_response(request)


class RequestIdMiddleware(_Middleware):
    """Gives each request an id of ours, `request.request_id`, and each answer the header `request-id`."""

    def __call__(self, request: HttpRequest) -> Answer:
        request.request_id = f"req_{uuid.uuid4().hex}"  # type: ignore[attr-defined]
        answer = self.get_response(request)
        if isinstance(answer, HttpResponseBase):
            return _signed(request, answer)
        return _signed_later(request, answer)


async def _signed_later(request: HttpRequest, answer: Awaitable[HttpResponseBase]) -> HttpResponseBase:
    return _signed(request, await answer)


def _signed(request: HttpRequest, answer: HttpResponseBase) -> HttpResponseBase:
    answer.headers["request-id"] = request.request_id  # type: ignore[attr-defined]
    if request.path_info.startswith(PRIVATE):
        answer.headers.setdefault("cache-control", "private, no-cache")
    return answer


def names_its_tenant[V: Callable[..., Any]](view: V) -> V:
    """A view that begins with something slow: it is called in no transaction, and names its tenant after that."""
    view.names_its_tenant = True  # type: ignore[attr-defined]
    return view


class PageRateMiddleware(_Middleware):
    """Counts pages for each signed-in person and, of strangers, for each address. One too many is a page with 429.

    Calls of the API are counted by their caller, and probes not at all. Nor is anything in the synchronous world,
    where no server is.
    """

    def __call__(self, request: HttpRequest) -> Answer:
        path = request.path_info
        if path.startswith("/v1/") or path in PROBES or not iscoroutinefunction(self.get_response):
            return self.get_response(request)
        return self._counted(request)

    async def _counted(self, request: HttpRequest) -> HttpResponseBase:
        try:
            await rates().count_page(await _asking(request))
        except RateLimited as error:
            return page_for(request, error)
        answer = self.get_response(request)
        assert not isinstance(answer, HttpResponseBase)
        return await answer


async def _asking(request: HttpRequest) -> str:
    """The person of the session, or the address; of IPv6 its network, all of which one has to choose from."""
    if person := await request.session.aget(SESSION_KEY):
        return str(person)
    address: str = request.META.get("REMOTE_ADDR", "")
    with suppress(ValueError):
        address = str(ip_interface(f"{IPv6Address(address)}/64").network)
    return address


class CurrentTenantMiddleware(_Middleware):
    """Runs a page of /t/<slug>/… inside its tenant's context, for members only: strangers get 404.

    Sets `request.caller`, `request.membership`, and `request.memberships`, all that the person has.
    The view is one short transaction, undone if it raises; one that is async, or `names_its_tenant`,
    sees to that itself. Stands last, since it calls the view.
    """

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> HttpResponseBase | None:
        if not request.path_info.startswith("/t/") or "slug" not in kwargs:
            return None
        if not isinstance(request.user, User):
            return redirect_to_login(request.get_full_path())
        everywhere = memberships_of(request.user)
        found = [here for here in everywhere if here.tenant_slug == kwargs["slug"]]
        if not found:
            note_refusal_of_tenant([here.as_caller() for here in everywhere], call_of(request))
            raise Http404
        request.memberships = everywhere  # type: ignore[attr-defined]
        request.membership = found[0]  # type: ignore[attr-defined]
        request.caller = found[0].as_caller()  # type: ignore[attr-defined]
        note_first_act(request, found[0].as_caller())
        if iscoroutinefunction(view) or getattr(view, "names_its_tenant", False):
            return None
        try:
            with tenant_context(found[0].tenant_id):
                return _rendered(view(request, *args, **kwargs))
        except ApiError as error:
            _note_refusal(request, error)
            return page_for(request, error)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponseBase | None:
        if not isinstance(error, ApiError):
            return None
        _note_refusal(request, error)
        return page_for(request, error)


def _note_refusal(request: HttpRequest, error: ApiError) -> None:
    caller: Caller | None = getattr(request, "caller", None)
    if caller and error.status in REFUSALS and request.resolver_match:
        note_refusal(caller, call_of(request), error.status, object_of(request.resolver_match.kwargs))


def page_for(request: HttpRequest, error: ApiError) -> HttpResponseBase:
    """The page of an error, by the handler that the URLs name for its kind; it takes the status of the error."""
    if error.status == 401:
        return redirect_to_login(request.get_full_path())
    kind = error.status if error.status in (403, 404) else 400
    handler: Callable[..., HttpResponseBase] = get_resolver().resolve_error_handler(kind)
    answer = handler(request, exception=error)
    answer.status_code = error.status
    if error.retry_after is not None:
        answer.headers["retry-after"] = str(error.retry_after)
    return answer


def _rendered(answer: HttpResponseBase) -> HttpResponseBase:
    """The answer, its template rendered while the tenant is still named."""
    render = getattr(answer, "render", None)
    return render() if callable(render) else answer
