"""The API's errors by the name that a person types after `error`, in the API's own words."""

from collections.abc import Mapping

from claude_runner.scripted_model.answer import Refusal


class InvalidRequest(Exception):
    """The request can't be read; the text says what is wrong with it."""


def invalid(message: str) -> Refusal:
    return Refusal(400, "invalid_request_error", message)


MISSING_CREDENTIAL = Refusal(401, "authentication_error", "x-api-key header is required")
WRONG_KEY = Refusal(401, "authentication_error", "invalid x-api-key")
WRONG_TOKEN = Refusal(401, "authentication_error", "Invalid bearer token")
EXPIRED = Refusal(
    401,
    "authentication_error",
    "OAuth token has expired. Please obtain a new token or refresh your existing token.",
)
NOT_FOUND = Refusal(404, "not_found_error", "Not found")
METHOD_NOT_ALLOWED = Refusal(405, "invalid_request_error", "Method Not Allowed")
TOO_LARGE = Refusal(413, "request_too_large", "Request exceeds the maximum size")
OVERLOADED = Refusal(529, "overloaded_error", "Overloaded")

BY_NAME: Mapping[str, Refusal] = {
    "400": invalid("The offline model refuses this request, as asked."),
    "401": WRONG_KEY,
    "402": Refusal(402, "billing_error", "Your credit balance is too low to access the API."),
    "403": Refusal(
        403, "permission_error", "Your API key does not have permission to use the specified resource."
    ),
    "404": Refusal(404, "not_found_error", "model: no-such-model"),
    "413": TOO_LARGE,
    "429": Refusal(
        429, "rate_limit_error", "This request would exceed your account's rate limit.", retry_after=2
    ),
    "500": Refusal(500, "api_error", "Internal server error"),
    "504": Refusal(504, "timeout_error", "Request timed out"),
    "529": OVERLOADED,
}
