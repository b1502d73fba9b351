"""The Claude Code CLI on this host: where it is, and a copy that every sandbox may read."""

import contextlib
import os
import shutil
from pathlib import Path

import claude_agent_sdk
from claude_agent_sdk._cli_version import __cli_version__

from claude_runner.errors import CliMissing
from claude_runner.spec import RunnerSettings


def cli_version() -> str:
    """The version of the CLI that the SDK brings."""
    return __cli_version__


def find_cli(settings: RunnerSettings) -> Path:
    """The binary named in the settings, else the one in the SDK's wheel."""
    path = settings.cli_path or Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
    if not path.is_file():
        raise CliMissing(
            f"There is no Claude Code CLI at {path}: reinstall claude-agent-sdk or name a binary."
        )
    return path.resolve()


def stage_cli(settings: RunnerSettings) -> Path:
    """Put the CLI below the sandbox folder, once per version, and return where it is.

    The original may lie below a folder that a dropped uid cannot enter. Costs a hard link, or one copy of
    380 MB where linking is impossible or the original could be changed by others.
    """
    source = find_cli(settings)
    folder = settings.sandbox_dir / "cli" / _label(source, settings)
    target = folder / "claude"
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return target
    fresh = folder / f".claude.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    _link_or_copy(source, fresh)
    fresh.rename(target)
    # Renaming one hard link onto another of the same file does nothing and leaves both.
    fresh.unlink(missing_ok=True)
    return target


def _label(source: Path, settings: RunnerSettings) -> str:
    if settings.cli_path is None:
        return __cli_version__
    status = source.stat()
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


def _link_or_copy(source: Path, target: Path) -> None:
    status = source.stat()
    others_may_change_it = status.st_uid != os.geteuid() or status.st_mode & 0o022
    if not others_may_change_it and status.st_mode & 0o555 == 0o555:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)
    target.chmod(0o755)
