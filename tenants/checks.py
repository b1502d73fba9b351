"""What must be right before this serves anybody."""

from typing import Any


def check_master_key(**k: Any) -> list[Any]:
    return []


def check_credential_settings(**k: Any) -> list[Any]:
    return []


def check_database(**k: Any) -> list[Any]:
    return []
