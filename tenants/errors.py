"""What can go wrong for a caller, as one tree. One mapper turns each into JSON, a socket frame or a page.

ApiError                api_error              500
├─ InvalidRequest       invalid_request_error  400
│  └─ Conflict          invalid_request_error  409
├─ AuthenticationError  authentication_error   401
├─ PermissionDenied     permission_error       403
├─ NotFound             not_found_error        404   also for every object of another tenant
├─ TooLarge             request_too_large      413
├─ RateLimited          rate_limit_error       429   with `retry_after`
└─ Overloaded           overloaded_error       529   with `retry_after`
"""

from typing import Any, ClassVar

from django.utils.translation import gettext as _

TOOK_TOO_LONG = "57014"  # SQLSTATE query_canceled

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class ApiError(Exception):
    """A sentence for the caller, with its HTTP status and its type in the Messages API's words.

    `retry_after` is seconds, or None where trying again changes nothing.
    """

    default_status: ClassVar[int] = 500

    def __init__(
        self,
        message: str = "",
        *,
        type: str | None = None,
        status: int | None = None,
        retry_after: int | None = None,
    ) -> None:
        self.message = message or self.default_message()
        self.status = status or self.default_status
        self.type = type or TYPES.get(
            self.status, "invalid_request_error" if self.status < 500 else "api_error"
        )
        self.retry_after = retry_after
        super().__init__(self.message)

    def default_message(self) -> str:
        return _("Something went wrong on our side.")

    def as_json(self, request_id: str = "") -> dict[str, Any]:
        """The body of the answer, in the Messages API's shape."""
        error = {"type": self.type, "message": self.message}
        return {"type": "error", "error": error, "request_id": request_id}


class InvalidRequest(ApiError):
    default_status = 400

    def default_message(self) -> str:
        return _("The request makes no sense as it is.")


class Conflict(InvalidRequest):
    default_status = 409

    def default_message(self) -> str:
        return _("That contradicts what is there already.")


class AuthenticationError(ApiError):
    default_status = 401

    def default_message(self) -> str:
        return _("Sign in, or send a valid API key as x-api-key.")


class PermissionDenied(ApiError):
    default_status = 403

    def default_message(self) -> str:
        return _("Your role or your key does not allow that.")


class NotFound(ApiError):
    default_status = 404

    def default_message(self) -> str:
        return _("There is no such object.")


class TooLarge(ApiError):
    default_status = 413

    def default_message(self) -> str:
        return _("The request is too large.")


class RateLimited(ApiError):
    default_status = 429

    def default_message(self) -> str:
        return _("Too many requests. Try again in a moment.")


class Overloaded(ApiError):
    default_status = 529

    def default_message(self) -> str:
        return _("Everything is busy. Try again in a moment.")


def database_fault(error: Exception | type[Exception]) -> ApiError:
    """What to tell of a database that is away, takes no writes, or took longer than a statement may: no bug."""
    if getattr(error.__cause__, "sqlstate", None) == TOOK_TOO_LONG:
        return Overloaded(_("The database took too long for this. Try again in a moment."))
    return ApiError(_("The database did not answer. Try again in a moment."))
