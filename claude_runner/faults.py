"""What went wrong, as the turn's `error`: a type of the Messages API and a sentence that says what to do."""

from claude_runner.errors import EngineError
from claude_runner.meter import Refusal

CREDENTIAL = "The credential was refused. Enter a new one under Credentials, then send the message again."
SENTENCES = {
    401: ("authentication_error", CREDENTIAL),
    402: ("billing_error", "The credential's account has no credit left. Top it up, or use another."),
    403: ("permission_error", CREDENTIAL),
    404: ("not_found_error", "The model does not exist at this address. Choose another model or address."),
    413: ("request_too_large", "The conversation is too large for the model. Start a new one, or send less."),
    429: ("rate_limit_error", "The credential's rate limit is used up. Wait a minute, then send it again."),
    503: ("overloaded_error", "The model is overloaded. Wait a minute, then send the message again."),
    529: ("overloaded_error", "The model is overloaded. Wait a minute, then send the message again."),
}
SERVER_FAULT = "The model's server failed. Send the message again; if it goes on, ask who runs that server."
REFUSED = "The model's server did not take the request."
MEMORY = (
    "The answer could not be stored in the conversation's memory, so the next one will not know of it. "
    "Send the message again."
)
CLEARED = "The memory of a conversation cannot be cleared. Start a new conversation instead."
HUNG = "Claude Code stopped responding and was ended. Send the message again."
DIED = "Claude Code ended unexpectedly. Send the message again."
ENDLESS_LINE = "Claude Code was ended because it wrote a line without an end. Send the message again."
GARBAGE = "Claude Code was ended because it wrote far more than an answer can be. Send the message again."
STRAYS = "What the turn had started would not end, so its process was ended with it."
BROKEN = "Something went wrong in the runner. Send the message again; the log has the details."


def fault(message: str, kind: str = "api_error") -> dict[str, str]:
    return {"type": kind, "message": message}


def engine_fault(error: EngineError) -> dict[str, str]:
    return fault(str(error), error.type)


def upstream_fault(status: int | None, said: str, refusal: Refusal | None) -> dict[str, str]:
    """For a turn that the CLI reports as failed: `status` and `said` are its own account of it."""
    if refusal is not None and refusal.ours:
        return fault(refusal.message, refusal.type)
    if refusal is not None and refusal.status == 0:
        return fault(f"{refusal.message} Check the credential's address, or try again in a minute.")
    if refusal is not None:
        status, said = refusal.status, refusal.message or said
    said = f" It said: {said}" if said else ""
    if status in SENTENCES:
        kind, sentence = SENTENCES[status]
        return fault(sentence + said, kind)
    if status is not None and status >= 500:
        return fault(SERVER_FAULT + said)
    if status is not None and status >= 300:
        return fault(REFUSED + said, "invalid_request_error")
    return fault(f"Claude Code could not finish.{said}")
