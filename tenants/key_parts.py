"""The part of each tenant's key that lies outside the database: one small file a tenant, in TENANT_KEYS_DIR.

Without it the tenant's key does not open, whoever has the database, a backup of it and the master key. So what
destroys this file closes the tenant's secrets in every backup as well. All machines use the same folder.
"""

import os
import secrets
from pathlib import Path
from uuid import UUID

from django.conf import settings

from tenants.master_keys import KEY_BYTES, SecretError


def are_used() -> bool:
    """Whether new keys get such a part; the operator may say `none`."""
    return settings.TENANT_KEYS_DIR is not None


def make_part(tenant: UUID) -> bytes:
    """The tenant's part, made unless it is there. It is on the disk when this returns."""
    path = _path(tenant)
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        _sync(path.parent)
    return part_of(tenant)


def part_of(tenant: UUID) -> bytes:
    """SecretError where it is gone, or was never on this machine."""
    try:
        part = _path(tenant).read_bytes()
    except FileNotFoundError:
        part = b""
    if len(part) != KEY_BYTES:
        raise SecretError(
            f"the part of tenant {tenant}'s key is not in TENANT_KEYS_DIR ({settings.TENANT_KEYS_DIR}): the"
            " tenant was deleted, or this machine does not share that folder with the others"
        )
    return part


def destroy_part(tenant: UUID) -> None:
    """Overwrite and remove it; nothing happens where there is none."""
    if not are_used() or not (path := _path(tenant)).exists():
        return
    with path.open("r+b") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    _sync(path.parent)


def _path(tenant: UUID) -> Path:
    if settings.TENANT_KEYS_DIR is None:
        raise SecretError(
            f"the key of tenant {tenant} has a part in TENANT_KEYS_DIR, which is set to none on this machine"
        )
    return Path(settings.TENANT_KEYS_DIR) / str(tenant)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
