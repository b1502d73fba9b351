"""Typed readers for the settings: each turns one written value into one good one, or says what to do."""

import hashlib
import os
import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

MAIL_SECONDS = 10
ADDRESS = re.compile(r"^(\[[0-9a-fA-F:]+\]|[^:\s/]+):\d{1,5}$")
PUBLIC = re.compile(r"^https?://(\[[0-9a-fA-F:]+\]|[a-zA-Z0-9.-]+)(:\d{1,5})?/?$")


def first_given(*values: str | None) -> str:
    """The first value that is not empty, or ''."""
    return next((value for value in values if value), "")


def read_key(given: str, path: Path) -> str:
    """The key itself, or the one that the first `manage.py up` left at `path`, or '' (checks then say so)."""
    return given or (path.read_text().strip() if path.is_file() else "")


def folder_or_none(given: str, usual: Path) -> Path | None:
    """The folder given, else the usual one; None where the word `none` was given."""
    return None if given == "none" else Path(given).expanduser().absolute() if given else usual


def fingerprint(secret: str) -> str:
    """Tells whether a secret is the same as before, without keeping it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def database_urls(given: str, given_owner: str, servers: dict[str, str]) -> tuple[str, str]:
    """The application's URL and the owner's, '' where unknown.

    `servers` (what `up` left) serves where nothing is given, or where its roles were made with what is given.
    """
    if given_owner:
        return first_given(given, servers.get("database_url")), given_owner
    if not given or servers.get("made_with") == fingerprint(given):
        return servers.get("database_url", ""), servers.get("database_owner_url", "")
    return given, given


def is_address(entry: str) -> bool:
    """Whether `entry` reads host:port."""
    return bool(ADDRESS.match(entry))


def read_public_url(given: str) -> str:
    """The address without its last slash; '' where none is given."""
    if given and not PUBLIC.match(given):
        raise ImproperlyConfigured("PUBLIC_URL is where people find this, such as https://parley.example")
    return given.rstrip("/")


def read_networks(given: list[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Addresses and networks, written as 127.0.0.1 or 10.0.0.0/8."""
    try:
        return tuple(ip_network(entry.strip()) for entry in given)
    except ValueError as error:
        raise ImproperlyConfigured(
            f"TRUSTED_PROXIES takes addresses or networks, with commas between: {error}"
        ) from error


def sandbox_folder(data_dir: Path) -> Path:
    """A short path for sandboxes, one per DATA_DIR: a unix socket's path has 108 bytes.

    Root's lies outside every home, since a dropped uid has to pass through each folder above it.
    """
    name = hashlib.sha256(str(data_dir).encode()).hexdigest()[:8]
    if os.geteuid() == 0:
        return Path("/var/lib/parley") / name
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "parley" / name


def mailer(config: dict[str, Any]) -> dict[str, Any]:
    """What django-environ reads out of an EMAIL_URL, as an entry of Django's MAILERS."""
    backend: str = config["EMAIL_BACKEND"]
    if not backend.endswith("smtp.EmailBackend"):
        folder = {"file_path": config["EMAIL_FILE_PATH"]} if "filebased" in backend else {}
        return {"BACKEND": backend, "OPTIONS": folder}
    options = {
        "host": config["EMAIL_HOST"] or "localhost",
        "port": config["EMAIL_PORT"] or 25,
        "username": config["EMAIL_HOST_USER"] or "",
        "password": config["EMAIL_HOST_PASSWORD"] or "",
        "use_tls": config.get("EMAIL_USE_TLS", False),
        "use_ssl": config.get("EMAIL_USE_SSL", False),
        "timeout": MAIL_SECONDS,
    }
    return {"BACKEND": backend, "OPTIONS": options}
