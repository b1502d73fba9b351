"""Private files: closed to others, and on the disk when they are said to be written."""

import os
from pathlib import Path

import pytest

from config.files import write_private


def test_a_private_file_and_its_name_are_on_the_disk_when_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, int]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        found = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((found.name, found.stat().st_size if found.is_file() else -1))

    monkeypatch.setattr(os, "fsync", noted)
    write_private(tmp_path / "secret", "once upon a time")
    assert synced == [("secret.new", 16), (tmp_path.name, -1)]
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secret").read_text() == "once upon a time"
