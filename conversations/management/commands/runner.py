"""`manage.py runner`: one runner host's process."""

import asyncio
import fcntl
import hashlib
import os
import secrets
import signal
from argparse import ArgumentParser
from pathlib import Path
from typing import IO, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from claude_runner import (
    EngineError,
    Limits,
    RunnerSettings,
    Tier,
    cli_version,
    open_as_many_as_allowed,
    prove_tier,
)
from conversations.hosts import NameTaken
from conversations.runner import Host, Runner
from conversations.tasks import work_in_background
from tenants.checks import assert_safe_database

UIDS_PER_RUNNER = 65_000
RUNNERS_PER_HOST = 4_096
FIRST_UID = 1_879_048_192


class Command(BaseCommand):
    help = "Run conversations: claims queued turns and drives their Claude Code processes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--name", default=settings.RUNNER_NAME, help="this runner's name, unique among all"
        )

    def handle(self, *args: Any, name: str, **options: Any) -> None:
        assert_safe_database()
        if settings.HTTPS and not settings.SANDBOX_TIER:
            raise CommandError(
                "In production (PUBLIC_URL is https) the operator names the sandbox tier that nothing may fall "
                f"below: set SANDBOX_TIER to one of {', '.join(Tier)}."
            )
        folder = runner_folder(name)
        with _lock(folder, name) as lock:
            runner_settings = settings_for(folder, name)
            try:
                proof = prove_tier(runner_settings)
                version = cli_version()
            except EngineError as error:
                raise CommandError(str(error)) from error
            self.stdout.write(f"runner {name}: sandbox {proof.tier}. {proof.reason}".rstrip())
            self.stdout.flush()
            host = Host(
                name,
                proof,
                version,
                settings.UNWALLED_TENANTS,
                settings.SANDBOX_PROVE_SECONDS,
                settings.QUESTION_YIELDS_SECONDS,
                _home(lock),
            )
            open_as_many_as_allowed()
            try:
                asyncio.run(_run(host, runner_settings))
            except NameTaken as error:
                raise CommandError(str(error)) from error


def runner_folder(name: str) -> Path:
    """This runner's own short folder: several may share a machine."""
    return Path(settings.SANDBOX_DIR) / hashlib.sha256(name.encode()).hexdigest()[:6]


def settings_for(folder: Path, name: str) -> RunnerSettings:
    """The engine's settings; each runner of a machine has uids of its own."""
    slot = int(hashlib.sha256(name.encode()).hexdigest(), 16) % RUNNERS_PER_HOST
    return RunnerSettings(
        sandbox_dir=folder,
        tier=Tier(settings.SANDBOX_TIER) if settings.SANDBOX_TIER else None,
        max_processes=settings.RUNNER_MAX_PROCESSES or None,
        free_disk=settings.RUNNER_FREE_DISK_MB << 20,
        first_uid=FIRST_UID + slot * UIDS_PER_RUNNER,
        uids=UIDS_PER_RUNNER,
        limits=Limits(
            memory=settings.CONVERSATION_MEMORY_MB << 20,
            processes=settings.CONVERSATION_PROCESSES,
            cpu=settings.TURN_CPU_SECONDS,
            disk=settings.CONVERSATION_DISK_MB << 20,
            files=settings.CONVERSATION_FILES,
            file=settings.CONVERSATION_FILE_MB << 20,
            output=settings.TURN_OUTPUT_MB << 20,
            turn=settings.TURN_SECONDS,
        ),
    )


def _lock(folder: Path, name: str) -> IO[str]:
    """Held as long as this process lives; CommandError when another one has the name."""
    folder.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    folder.mkdir(mode=0o711, exist_ok=True)
    lock = open(os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+")
    os.fchmod(lock.fileno(), 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise CommandError(
            f"A runner named {name} works on this machine already. Give this one another --name."
        ) from None
    os.set_inheritable(lock.fileno(), False)
    return lock


def _home(lock: IO[str]) -> str:
    """What the folder of this lock is called, made up once: a folder elsewhere is called something else."""
    lock.seek(0)
    home = lock.read()
    if not home:
        home = secrets.token_hex(16)
        lock.write(home)
        lock.flush()
    return home


async def _run(host: Host, runner_settings: RunnerSettings) -> None:
    runner = Runner(host, runner_settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, runner.drain)
    async with work_in_background():
        await runner.run(settings.RUNNER_DRAIN_SECONDS)
