"""What every request gets: an id; and on a tenant's pages, who is acting there, with the tenant named."""

import uuid
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction, markcoroutinefunction
from typing import Any, ClassVar

from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.urls import get_resolver

from tenants.access import Caller
from tenants.audit import REFUSALS, call_of, note_refusal, note_refusal_of_tenant, object_of
from tenants.authentication import memberships_of
from tenants.context import tenant_context
from tenants.errors import ApiError
from tenants.models import User
from tenants.sign_ins import note_first_act

# What is shown there is one person's: no cache on the way keeps it for another.
PRIVATE = ("/v1/", "/t/")

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
    return answer


def _rendered(answer: HttpResponseBase) -> HttpResponseBase:
    """The answer, its template rendered while the tenant is still named."""
    render = getattr(answer, "render", None)
    return render() if callable(render) else answer
