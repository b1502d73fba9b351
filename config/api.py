"""The API's root: who calls, in what shape errors come, and which app answers what."""

import logging
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.db import Error as DatabaseFault
from django.db import InterfaceError, InternalError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware
from django.utils.translation import gettext as _
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError

from conversations.api import router as conversations_router
from conversations.usage_api import router as usage_router
from tenants import audit
from tenants.access import Caller
from tenants.api import router as tenants_router
from tenants.api_keys import router as api_keys_router
from tenants.audit_api import router as audit_router
from tenants.authentication import caller_for_request
from tenants.context import across_tenants
from tenants.errors import (
    ApiError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    TooLarge,
    database_fault,
)
from tenants.origins import is_foreign
from tenants.people_api import router as people_router
from tenants.rates import rates

logger = logging.getLogger("parley.api")

# `submit_turn` counts them already. A second trip would only make their first words later.
COUNTED_AS_MESSAGES = frozenset({"chat_stream", "submit"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
PATIENCE = {429: 1, 529: 5}  # seconds to wait, where the error itself does not say


async def authenticate(request: HttpRequest) -> Caller:
    """The caller of an API request. With a cookie, nothing is changed for a page that is not ours.

    RateLimited where the caller has made too many calls lately.
    """
    caller = await caller_for_request(request)
    if caller.via == "session" and request.method not in SAFE_METHODS:
        headers = request.headers
        if is_foreign(headers.get("origin"), headers.get("sec-fetch-site"), headers.get("host", "")):
            raise PermissionDenied(_("A page of another origin can't act here. Use an API key."))
    if request.resolver_match is None or request.resolver_match.url_name not in COUNTED_AS_MESSAGES:
        await rates().count_call(caller)
    return caller


api = NinjaAPI(
    title="Parley",
    version="1",
    urls_namespace="v1",
    auth=authenticate,
    docs_url=None,
    openapi_url=None,
)
api.add_router("", conversations_router)
api.add_router("", tenants_router)
api.add_router("", people_router)
api.add_router("", api_keys_router)
api.add_router("", usage_router)
api.add_router("", audit_router)


def _answer(request: HttpRequest, error: ApiError) -> HttpResponse:
    request_id: str = getattr(request, "request_id", "")
    answer = JsonResponse(error.as_json(request_id), status=error.status)
    patience = error.retry_after or PATIENCE.get(error.status)
    if patience is not None:
        answer.headers["retry-after"] = str(patience)
    return answer


@api.exception_handler(ApiError)
def on_api_error(request: HttpRequest, error: ApiError) -> HttpResponse:
    return _answer(request, error)


@api.exception_handler(ValidationError)
def on_validation_error(request: HttpRequest, error: ValidationError) -> HttpResponse:
    return _answer(request, InvalidRequest("; ".join(_sentence(wrong) for wrong in error.errors)))


@api.exception_handler(RequestDataTooBig)
def on_large_body(request: HttpRequest, error: RequestDataTooBig) -> HttpResponse:
    return _answer(request, TooLarge())


@api.exception_handler(HttpError)
def on_http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
    if error.status_code == 400:
        return _answer(request, InvalidRequest(str(error)))
    return _answer(request, ApiError(str(error), status=error.status_code))


def on_database_away(request: HttpRequest, error: DatabaseFault | type[DatabaseFault]) -> HttpResponse:
    """No bug, and over when it is back."""
    logger.error("%s %s: %s", request.method, request.path, error)
    return _answer(request, database_fault(error))


for _kind in (OperationalError, InterfaceError, InternalError):
    api.add_exception_handler(_kind, on_database_away)


@api.exception_handler(Exception)
def on_bug(request: HttpRequest, error: Exception) -> HttpResponse:
    """A bug of ours: logged here, and told without its details."""
    logger.exception("%s %s failed", request.method, request.path, exc_info=error)
    return _answer(
        request, ApiError(_("Something went wrong on our side. Quote the request id to your operator."))
    )


def _sentence(wrong: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in wrong["loc"] if part not in ("body", "query"))
    return f"{place}: {wrong['msg']}" if place else str(wrong["msg"])


# What does not come from the API itself -------------------------------------------------------------------


@sync_and_async_middleware
def api_errors(
    get_response: Callable[[HttpRequest], Any],
) -> Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]:
    """Below /v1/ errors of Django's own (no such path, not this method, a bad host) have the API's shape too."""
    if iscoroutinefunction(get_response):

        async def later(request: HttpRequest) -> HttpResponseBase:
            answer = _in_shape(request, await get_response(request))
            if _is_refused(request, answer):
                await across_tenants(_note_refusal, request, answer)
            return answer

        return later

    def now(request: HttpRequest) -> HttpResponseBase:
        answer = _in_shape(request, get_response(request))
        if _is_refused(request, answer):
            _note_refusal(request, answer)
        return answer

    return now


def _note_refusal(request: HttpRequest, answer: HttpResponseBase) -> None:
    """What a caller of the API may not, or what is not there for them, stands in their tenant's audit."""
    assert request.resolver_match
    about = audit.object_of(request.resolver_match.kwargs)
    audit.note_refusal(request.auth, audit.call_of(request), answer.status_code, about)  # type: ignore[attr-defined]


def _is_refused(request: HttpRequest, answer: HttpResponseBase) -> bool:
    return answer.status_code in audit.REFUSALS and isinstance(getattr(request, "auth", None), Caller)


def _in_shape(request: HttpRequest, answer: HttpResponseBase) -> HttpResponseBase:
    foreign = answer.status_code >= 400 and not answer.headers.get("content-type", "").startswith(
        "application/json"
    )
    if not (foreign and request.path_info.startswith("/v1/")):
        return answer
    if answer.status_code == 404:
        error: ApiError = NotFound(_("There is no such call. See docs/api.md."))
    elif answer.status_code == 405:
        error = ApiError(_("This call does not take %(method)s.") % {"method": request.method}, status=405)
    else:
        error = ApiError(str(getattr(answer, "reason_phrase", "")), status=answer.status_code)
    shaped = _answer(request, error)
    if "allow" in answer.headers:
        shaped.headers["allow"] = answer.headers["allow"]
    return shaped
