"""The embedded servers: real ones, started, stopped, killed, moved."""

import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.embedded import EmbeddedServers
from config.embedded.account import let_through
from config.embedded.postgres import end_leftover
from tenants.provision import provision
from tests.uids import AS_ROOT


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    with EmbeddedServers(tmp_path_factory.mktemp("embedded") / "data", durable=False) as started:
        yield started


def test_postgres_18_keeps_its_data_safe_unless_told_otherwise(data_dir: Path) -> None:
    with EmbeddedServers(data_dir, with_valkey=False) as servers:
        with psycopg.connect(servers.admin_database_url) as connection:
            row = connection.execute(
                "SELECT current_setting('server_version_num')::int / 10000, current_setting('fsync'), "
                "current_setting('synchronous_commit'), current_setting('password_encryption')"
            ).fetchone()
        assert row == (18, "on", "on", "scram-sha-256")
        assert servers.redis_url == ""


def test_valkey_answers_and_asks_for_its_password(servers: EmbeddedServers) -> None:
    with redis.Redis.from_url(servers.redis_url) as client:
        assert client.ping()
    assert servers.valkey
    with (
        redis.Redis(port=servers.valkey.port, retry=Retry(NoBackoff(), 0)) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_a_wrong_password_does_not_open_the_database(servers: EmbeddedServers) -> None:
    assert servers.postgres
    wrong = f"postgresql://postgres:wrong@127.0.0.1:{servers.postgres.port}/postgres"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


class Impostor(Thread):
    """Stands on a port of PostgreSQL's, asks whoever comes for the password itself, and keeps what it hears."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.heard = b""
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]

    def run(self) -> None:
        with self.listening, suppress(OSError):
            connection, _ = self.listening.accept()
            with connection:
                while len(said := connection.recv(4096)) == 8:  # encryption, by one way or another?
                    connection.sendall(b"N")
                connection.sendall(b"R" + struct.pack("!II", 8, 3))
                while said:
                    self.heard += said
                    said = connection.recv(4096)


def test_who_took_the_port_of_the_database_is_told_no_password(servers: EmbeddedServers) -> None:
    urls = provision(servers.admin_database_url, "parley", new_passwords=True)
    for url in (servers.admin_database_url, urls.app, urls.owner):
        impostor = Impostor()
        impostor.start()
        place, _, _ = urlsplit(url).netloc.rpartition(":")
        there = urlsplit(url)._replace(netloc=f"{place}:{impostor.port}").geturl()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(there, connect_timeout=2)
        impostor.join(5)
        assert str(urlsplit(url).username).encode() in impostor.heard
        assert str(urlsplit(url).password).encode() not in impostor.heard


def test_passwords_are_on_no_command_line(servers: EmbeddedServers) -> None:
    assert servers.valkey and servers.postgres
    secrets = [servers.valkey.password, servers.postgres.password_file.read_text()]
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if any(secret in line for secret in secrets)]


def test_what_lies_on_disk_is_closed_to_others(servers: EmbeddedServers) -> None:
    for name in ("keys", "logs", "postgres/data"):
        assert stat.S_IMODE((servers.data_dir / name).stat().st_mode) == 0o700, name
    assert stat.S_IMODE((servers.data_dir / "keys/postgres_admin").stat().st_mode) == 0o600


def test_as_root_the_servers_run_as_somebody_else_and_as_an_ordinary_user_as_them(
    servers: EmbeddedServers,
) -> None:
    for server in (servers.postgres, servers.valkey):
        assert server and server.child and server.child.process
        [runs_as] = set(psutil.Process(server.child.process.pid).uids())
        assert runs_as != 0
        assert (runs_as == os.geteuid()) is not AS_ROOT
    assert (servers.data_dir / "postgres").stat().st_uid == os.geteuid()


def test_a_server_that_dies_comes_back_where_it_was(servers: EmbeddedServers) -> None:
    url = servers.admin_database_url
    assert servers.postgres and servers.postgres.child and servers.postgres.child.process
    servers.postgres.child.process.kill()
    servers.postgres.child.process.wait()
    assert list(servers.revive()) == ["postgres"]
    assert servers.admin_database_url == url
    psycopg.connect(url).close()
    assert list(servers.revive()) == []


def test_data_are_kept_when_the_folder_moves(data_dir: Path, tmp_path: Path) -> None:
    with EmbeddedServers(data_dir, with_valkey=False) as servers:
        execute(servers, "CREATE TABLE kept AS SELECT 42 AS answer")
    moved = data_dir.rename(tmp_path / ("long" * 40))
    with EmbeddedServers(moved, with_valkey=False) as servers:
        assert execute(servers, "SELECT answer FROM kept") == [(42,)]
        left = servers_of(moved)
    assert not [process for process in left if alive(process)]


STARTS = """
import sys, time
from pathlib import Path
from config.embedded import EmbeddedServers
with EmbeddedServers(Path(sys.argv[1]), durable=False) as servers:
    print(servers.valkey.child.process.pid, flush=True)
    time.sleep(600)
"""


def test_a_killed_start_leaves_nothing_in_the_way(data_dir: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTS, str(data_dir)], stdout=subprocess.PIPE)
    with starter:
        assert starter.stdout
        valkey = psutil.Process(int(starter.stdout.readline()))
        # A server that hangs does not end with its parent, and its pid file stays.
        for process in servers_of(data_dir):
            process.suspend()
        starter.send_signal(signal.SIGKILL)
    assert psutil.wait_procs([valkey], timeout=5)[1] == []
    left = servers_of(data_dir)
    assert left
    for process in left:
        process.resume()
    with EmbeddedServers(data_dir, with_valkey=False, durable=False) as servers:
        assert not [process for process in left if alive(process)]
        assert execute(servers, "SELECT 1") == [(1,)]


def test_only_a_server_of_the_folder_is_ended(servers: EmbeddedServers, data_dir: Path) -> None:
    data_dir.mkdir()
    bystander = subprocess.Popen(["sleep", "60"], cwd=data_dir)
    try:
        end_leftover(data_dir)
        assert bystander.poll() is None
        assert servers_of(servers.data_dir)
    finally:
        bystander.kill()
        bystander.wait()


def test_a_closed_folder_above_opens_for_the_server_alone(tmp_path: Path) -> None:
    """Not even for it where it runs as the folder's owner."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with EmbeddedServers(closed / "data", with_valkey=False, durable=False) as servers:
        assert execute(servers, "SELECT 1") == [(1,)]
        assert servers.postgres
        before = lists_of(closed)
        if AS_ROOT:
            assert servers.postgres.account
            let_through(servers.postgres.account, servers.postgres.data)
        assert (before != b"") is AS_ROOT
        assert lists_of(closed) == before
    assert closed.stat().st_mode & stat.S_IRWXO == 0
    if AS_ROOT:
        stranger = subprocess.run(
            ["ls", closed / "data"], user=65534, group=65534, capture_output=True, check=False
        )
        assert b"Permission denied" in stranger.stderr


def lists_of(folder: Path) -> bytes:
    """Its access list, if it has one."""
    with suppress(OSError):
        return os.getxattr(folder, "system.posix_acl_access")
    return b""


def execute(servers: EmbeddedServers, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(servers.admin_database_url) as connection:
        cursor = connection.execute(query)
        return cursor.fetchall() if cursor.description else []


def alive(process: psutil.Process) -> bool:
    """Running, and not just unburied."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def servers_of(data_dir: Path) -> list[psutil.Process]:
    data = data_dir / "postgres" / "data"
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] == "postgres" and Path(process.cwd()) == data:
                found.append(process)
        except (psutil.Error, OSError):
            time.sleep(0)
    return found
