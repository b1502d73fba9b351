"""What people enter, checked before anything is stored."""

from dataclasses import dataclass, field
from typing import Self

from django.conf import settings
from django.utils.translation import gettext as _

from tenants.errors import InvalidRequest
from tenants.roles import CredentialKind
from tenants.upstreams import checked_base_url

NAME_LENGTH = 80
SECRET_LENGTH = 4000


@dataclass(frozen=True, slots=True)
class CredentialDraft:
    """A credential as somebody entered it, found good. `base_url` is '' but for an endpoint."""

    name: str
    kind: CredentialKind
    secret: str = field(repr=False)
    base_url: str = ""

    @classmethod
    def checked(cls, *, name: str, kind: str, secret: str, base_url: str | None = None) -> Self:
        """InvalidRequest says what is wrong. Resolves the host of `base_url`: not inside a transaction."""
        found = _kind(kind)
        endpoint = found == CredentialKind.ENDPOINT
        if endpoint and not (base_url or "").strip():
            raise InvalidRequest(_("An endpoint needs a base_url."))
        if base_url and not endpoint:
            raise InvalidRequest(_("base_url is for endpoints only."))
        return cls(
            checked_name(name),
            found,
            checked_secret(secret),
            checked_base_url(base_url) if base_url and endpoint else "",
        )


def _kind(kind: str) -> CredentialKind:
    if kind not in CredentialKind.values:
        raise InvalidRequest(_("kind is one of: %(kinds)s.") % {"kinds": ", ".join(CredentialKind.values)})
    if kind == CredentialKind.OAUTH_TOKEN and not settings.ALLOW_OAUTH_TOKENS:
        raise InvalidRequest(_("The operator does not allow subscription tokens here. Enter an API key."))
    return CredentialKind(kind)


def checked_name(name: str) -> str:
    """The name without outer spaces, or InvalidRequest."""
    name = name.strip()
    if not name or len(name) > NAME_LENGTH or not name.isprintable():
        raise InvalidRequest(_("A name has 1 to %(most)s characters, on one line.") % {"most": NAME_LENGTH})
    return name


def checked_secret(secret: str) -> str:
    """The secret without outer spaces, or InvalidRequest."""
    secret = secret.strip()
    if not secret or len(secret) > SECRET_LENGTH:
        raise InvalidRequest(_("secret is empty, or far too long."))
    # It becomes the value of an HTTP header.
    if not all("!" <= sign <= "~" for sign in secret):
        raise InvalidRequest(_("secret has a space, a line break or another character that no key has."))
    return secret
