"""Whether a browser's request comes from a page of ours. Only who comes with a cookie is asked."""

from django.conf import settings


def is_ours(origin: str, host: str) -> bool:
    """Whether an `Origin` is that of the host that was asked, or one that the operator trusts."""
    ours = (f"http://{host}", f"https://{host}") if host else ()
    return origin in ours or origin in settings.CSRF_TRUSTED_ORIGINS


def is_foreign(origin: str | None, site: str | None, host: str) -> bool:
    """Whether a browser says that a page which is not ours makes this HTTP request.

    Every browser sends `Origin` (maybe "null") with what changes something, and `Sec-Fetch-Site` with everything.
    Who sends neither is no page, and could as well have left out a token.
    """
    if origin is not None:
        return not is_ours(origin, host)
    return site not in (None, "same-origin", "none")
