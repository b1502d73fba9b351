"""Whether a browser's request comes from a page of ours, and where our own links lead."""

from urllib.parse import urljoin

from django.conf import settings
from django.http import HttpRequest
from django.http.request import split_domain_port, validate_host


def is_ours(origin: str, host: str) -> bool:
    """Whether an `Origin` is that of the host that was asked, or one that the operator trusts."""
    if origin in settings.CSRF_TRUSTED_ORIGINS:
        return True
    schemes = ("https",) if settings.HTTPS else ("http", "https")
    return _is_a_name_of_ours(host) and origin in {f"{scheme}://{host}" for scheme in schemes}


def is_foreign(origin: str | None, site: str | None, host: str) -> bool:
    """Whether a browser says that a page which is not ours makes this HTTP request.

    Every browser sends `Origin` (maybe "null") with what changes something, and `Sec-Fetch-Site` with everything.
    Who sends neither is no page, and could as well have left out a token.
    """
    if origin is not None:
        return not is_ours(origin, host)
    return site not in (None, "same-origin", "none")


def link_to(request: HttpRequest, path: str) -> str:
    """A link of ours that leaves: to the public address, or, where the operator gave none, to where we were asked.

    `Host` is the client's to choose, and a mail would carry it to somebody else.
    """
    return urljoin(settings.GIVEN_PUBLIC_URL or request.build_absolute_uri("/"), path)


def _is_a_name_of_ours(host: str) -> bool:
    """A page of another name that was made to resolve to us (rebinding) names its own host."""
    name, _port = split_domain_port(host)
    return bool(name) and validate_host(name, settings.ALLOWED_HOSTS)
