"""The Claude Code CLI on this host: where it is, and a copy that every sandbox may run."""

import os
import shutil
from pathlib import Path
from stat import S_IFREG

import claude_agent_sdk
from claude_agent_sdk._cli_version import __cli_version__

from claude_runner.errors import CliMissing
from claude_runner.spec import RunnerSettings

CLOSED, SCRIPT = 0o111, 0o555


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

    The original may lie below a folder that a dropped uid cannot enter, and may be read. Costs one copy of 380 MB.
    """
    source = find_cli(settings)
    folder = settings.sandbox_dir / "cli" / _label(source, settings)
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    return stage(source, folder / "claude")


def stage(source: Path, target: Path) -> Path:
    """Keep a copy of a program that may be run and not be read.

    The kernel closes the memory and the descriptors of a process whose program it could not read, even to others
    of its own uid: nothing inside a sandbox gets into what runs this. A script can't be closed so, since its
    interpreter has to read it. Never a link, which would have the mode of the original.
    """
    mode = SCRIPT if _is_script(source) else CLOSED
    if _is_staged(source, target, mode):
        return target
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    _copy(source, fresh, mode)
    fresh.rename(target)
    return target


def _label(source: Path, settings: RunnerSettings) -> str:
    if settings.cli_path is None:
        return __cli_version__
    status = source.stat()
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


def _is_script(source: Path) -> bool:
    with source.open("rb") as file:
        return file.read(2) == b"#!"


def _is_staged(source: Path, target: Path, mode: int) -> bool:
    try:
        there, wanted = target.lstat(), source.stat()
    except FileNotFoundError:
        return False
    return (there.st_mode, there.st_uid, there.st_nlink, there.st_size, there.st_mtime_ns) == (
        *(S_IFREG | mode, os.geteuid(), 1),
        *(wanted.st_size, wanted.st_mtime_ns),
    )


def _copy(source: Path, target: Path, mode: int) -> None:
    """A copy with the time of its original; one that shares the blocks, where the file system can do that."""
    with source.open("rb") as original:
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o100), "wb") as copy:
            try:
                while os.copy_file_range(original.fileno(), copy.fileno(), 1 << 30):
                    pass
            except OSError:
                # Another file system, or one that can't: from where it stopped.
                original.seek(copy.seek(0, os.SEEK_CUR))
                shutil.copyfileobj(original, copy, 1 << 20)
            os.fchmod(copy.fileno(), mode)
        status = os.fstat(original.fileno())
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
