"""Private files: written whole or not at all, and never readable for others, not even for a moment."""

import json
import os
from pathlib import Path
from typing import Any

from config.children import Account


def write_private(path: Path, text: str, owner: Account | None = None) -> None:
    """Replace the file at `path` (mode 0600, `owner`'s if given) in one step; it is on the disk then."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        if owner:
            os.fchown(file.fileno(), owner.uid, owner.gid)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_private_json(path: Path, content: dict[str, Any]) -> None:
    write_private(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file, or an empty one where there is no file."""
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content


def make_private(folder: Path, mode: int = 0o700) -> Path:
    """The folder, made with `mode` whatever the umask is; one that is there keeps its own."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.chmod(mode)
    return folder
