"""The API's root: who calls, in what shape errors come, and which app answers what."""

import logging
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError
from ninja.utils import check_csrf

from conversations.api import router as conversations_router
from tenants.access import Caller
from tenants.api import router as tenants_router
from tenants.authentication import caller_for_request
from tenants.errors import ApiError, InvalidRequest, PermissionDenied

logger = logging.getLogger("parley.api")

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


async def authenticate(request: HttpRequest) -> Caller:
    """The caller of an API request. A cookie alone does not change anything: it needs its CSRF token beside it."""
    caller = await caller_for_request(request)
    if caller.via == "session" and request.method not in SAFE_METHODS and check_csrf(request) is not None:
        raise PermissionDenied(_("The CSRF token is missing. Send it as x-csrftoken, or use an API key."))
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


def _answer(request: HttpRequest, error: ApiError) -> HttpResponse:
    request_id: str = getattr(request, "request_id", "")
    return api.create_response(request, error.as_json(request_id), status=error.status)


@api.exception_handler(ApiError)
def on_api_error(request: HttpRequest, error: ApiError) -> HttpResponse:
    return _answer(request, error)


@api.exception_handler(ValidationError)
def on_validation_error(request: HttpRequest, error: ValidationError) -> HttpResponse:
    return _answer(request, InvalidRequest("; ".join(_sentence(wrong) for wrong in error.errors)))


@api.exception_handler(HttpError)
def on_http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
    if error.status_code == 400:
        return _answer(request, InvalidRequest(str(error)))
    return _answer(request, ApiError(str(error), status=error.status_code))


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
