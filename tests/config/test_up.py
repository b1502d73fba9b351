"""`manage.py up` for real: everything starts, everything ends, and nothing is lost in between."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from config.children import free_port

ROOT = Path(__file__).resolve().parents[2]
READY = "Ctrl-C ends it."
PATIENCE = 90

pytestmark = [pytest.mark.timeout(240), pytest.mark.needs_bubblewrap]


class Up:
    """One `manage.py up` in a process group of its own, its output in a file."""

    def __init__(self, data_dir: Path, port: int) -> None:
        self.data_dir = data_dir
        self.port = port
        self.log = data_dir.with_name(f"{data_dir.name}.log")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `manage.py` command with the same DATA_DIR, to its end."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    def environment(self) -> dict[str, str]:
        ours = ("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL", "SECRET_KEY", "MASTER_KEY")
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        return kept | {"DATA_DIR": str(self.data_dir), "PORT": str(self.port), "PYTHONUNBUFFERED": "1"}

    def start(self) -> None:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up"],
                cwd=ROOT,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        until = time.monotonic() + PATIENCE
        while READY not in self.printed():
            assert self.process.poll() is None, self.printed()
            assert time.monotonic() < until, self.printed()
            time.sleep(0.1)

    def printed(self) -> str:
        return self.log.read_text()

    def family(self) -> list[psutil.Process]:
        assert self.process
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self) -> list[psutil.Process]:
        """kill -9; gives the children that it leaves behind for a moment."""
        assert self.process
        family = self.family()
        self.process.kill()
        self.process.wait()
        return family

    def end_group(self, number: signal.Signals) -> int:
        """Signal the whole process group, as a terminal does; the exit code."""
        assert self.process
        os.killpg(self.process.pid, number)
        return self.process.wait(PATIENCE)

    def first_run(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data_dir / "first-run.json").read_text())
        return found

    def ask(self, path: str, key: str = "") -> Any:
        request = urllib.request.Request(self.url + path, headers={"x-api-key": key})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One DATA_DIR for the module; its tests run in order."""
    started = Up(tmp_path_factory.mktemp("up") / "data", free_port())
    started.start()
    yield started
    if started.process and started.process.poll() is None:
        started.end_group(signal.SIGTERM)


def gone(processes: list[psutil.Process], seconds: float = 10) -> bool:
    _, left = psutil.wait_procs(processes, timeout=seconds)
    return not [process for process in left if process.is_running()]


def test_it_says_where_to_go_and_how_to_sign_in(up: Up) -> None:
    first, printed = up.first_run(), up.printed()
    assert up.url in printed
    assert first["email"] in printed
    assert first["password"] in printed
    assert "not Claude" in printed
    assert "Sandbox" in printed


def test_the_first_start_leaves_a_sign_in_for_its_owner_only(up: Up) -> None:
    assert set(up.first_run()) == {"url", "email", "password", "api_key", "tenant"}
    assert up.first_run()["url"] == up.url
    for name in ("first-run.json", "servers.json", "keys/secret_key", "keys/master_key"):
        assert stat.S_IMODE((up.data_dir / name).stat().st_mode) == 0o600, name


def test_no_secret_but_the_sign_in_is_printed(up: Up) -> None:
    servers = json.loads((up.data_dir / "servers.json").read_text())
    keys = [(up.data_dir / "keys" / name).read_text() for name in ("secret_key", "master_key")]
    for secret in (*keys, servers["database_url"], servers["redis_url"], up.first_run()["api_key"]):
        assert secret not in up.printed()


def test_it_is_ready_and_the_key_opens_the_api(up: Up) -> None:
    assert up.ask("/health") == {"status": "ok"}
    assert up.ask("/ready")["status"] == "ready"
    credentials = up.ask("/v1/credentials", up.first_run()["api_key"])
    assert "not Claude" in json.dumps(credentials)


def test_a_second_one_on_the_same_folder_says_where_the_first_is(up: Up) -> None:
    assert up.process
    second = up.run("up")
    assert second.returncode != 0
    assert f"running already at {up.url} (process {up.process.pid})" in second.stderr


def test_a_taken_port_is_told_before_anything_starts(up: Up, tmp_path: Path) -> None:
    other = Up(tmp_path / "other", up.port)
    refused = other.run("up")
    assert refused.returncode != 0
    assert f"port {up.port}" in refused.stderr
    assert not (other.data_dir / "postgres").exists()


def test_other_commands_find_the_servers(up: Up) -> None:
    made = up.run("create_tenant", "acme", "--owner", "ada@example.com")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["tenant"] == "acme"


def test_only_what_migrates_gets_the_owners_url(up: Up) -> None:
    servers = json.loads((up.data_dir / "servers.json").read_text())
    password = urlsplit(servers["database_owner_url"]).password
    ours = [process for process in up.family() if "manage.py" in " ".join(process.cmdline())]
    assert {process.cmdline()[-1] for process in ours} == {"web", "runner"}
    for process in ours:
        assert servers["database_url"] in process.environ().values()
        assert not [name for name, value in process.environ().items() if password in value]


def test_a_web_process_that_dies_comes_back(up: Up) -> None:
    web = next(process for process in up.family() if "web" in process.cmdline())
    web.kill()
    until = time.monotonic() + 30
    while True:
        try:
            assert up.ask("/health") == {"status": "ok"}
            break
        except OSError:
            assert time.monotonic() < until, up.printed()
            time.sleep(0.2)
    assert "web | ended with signal SIGKILL" in up.printed()


def test_after_a_kill_everything_starts_again_with_what_was_there(up: Up) -> None:
    first = up.first_run()
    family = up.kill()
    up.start()
    assert gone(family), [str(process) for process in family if process.is_running()]
    assert up.first_run() == first
    assert first["password"] in up.printed()
    assert len(up.ask("/v1/credentials", first["api_key"])["data"]) == 1


def test_a_signal_to_the_whole_group_ends_everything_in_order(up: Up) -> None:
    family = up.family()
    assert len(family) >= 5
    assert up.end_group(signal.SIGTERM) == 0
    assert gone(family, seconds=0), [str(process) for process in family if process.is_running()]
    assert "database system is shut down" in (up.data_dir / "logs/postgres.log").read_text().splitlines()[-1]
    assert "Parley has stopped" in up.printed()
