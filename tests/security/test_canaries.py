"""Canaries in messages, files, titles, credentials and keys of tenant A, and a search through every sink there is.

A whole installation works for A and B: real turns of each, their processes still alive. Each sink names what may be
in it; every other canary that is found there is a leak. docs/security.md says how many sinks are searched.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psutil
import pytest
import redis

from config.embedded.postgres import programs
from tests.client import Client
from tests.stack import Installation, Web
from tests.uids import AS_ROOT

ROOT = Path(__file__).resolve().parents[2]
MOST_OF_A_FILE = 64 * 1024 * 1024
LOOK = (
    "run env; tr '\\0' '\\n' < /proc/self/environ;"
    " grep -rsa canary- /home /config /workspace /tmp /run /etc /var /opt /srv /mnt; echo searched"
)


def canary(kind: str) -> str:
    return f"canary-{kind}-{uuid4().hex}"


@dataclass
class Scene:
    """A whole installation after A and B have talked; the canaries of A, and the operator's own secrets."""

    installation: Installation
    web: Web
    credential: str = field(default_factory=lambda: canary("credential"))
    message: str = field(default_factory=lambda: canary("message"))
    file: str = field(default_factory=lambda: canary("file"))
    title: str = field(default_factory=lambda: canary("title"))
    name: str = field(default_factory=lambda: canary("name"))
    key: str = ""
    keys: dict[bytes, bytes] = field(default_factory=dict)
    tenant: str = ""
    conversation: str = ""
    others: str = ""
    heard: str = ""
    seen: str = ""

    @property
    def said(self) -> set[str]:
        """What A's people wrote: in A's rows and in A's folder, and nowhere else."""
        return {self.message, self.file, self.title, self.name}

    @property
    def operators(self) -> set[str]:
        """What the operator gave to web and runner."""
        environment = self.installation.environment
        password = urlsplit(environment["DATABASE_URL"]).password or ""
        return {environment["MASTER_KEY"], environment["SECRET_KEY"], password}

    @property
    def canaries(self) -> set[str]:
        return self.said | self.operators | {self.credential, self.key}

    def play(self) -> None:
        slug = f"a-{uuid4().hex[:6]}"
        founded = json.loads(
            self.installation.manage("create_tenant", slug, "--owner", f"{slug}@example.org")
        )
        self.key = founded["api_key"]
        self.tenant = str(self.installation.query("SELECT id FROM tenants_tenant WHERE slug = %s", slug))
        a, b = self.installation.client(self.web, self.key), self.installation.client(self.web)
        endpoint = {"kind": "endpoint", "base_url": self.installation.model_url, "name": self.name}
        a.post("/v1/credentials", endpoint | {"secret": self.credential, "default": True})
        # B's agent looks after A has talked, and B's socket is open all the time.
        with b.socket() as socket:
            socket.say("words 2")
            self.others = socket.until_end()[0]["conversation"]
            self.conversation = self._talk(a, f"write canary.txt: {self.file}")
            self._talk(a, self.message, self.conversation)
            assert a.call("PATCH", f"/v1/conversations/{self.conversation}", {"title": self.title}).is_success
            socket.say(
                LOOK,
                self.others,
            )
            looked = socket.until_end_allowing(60)
            self.keys = self.redis_keys()  # most live for seconds
        self.seen = self.heard = json.dumps(looked)

    def _talk(self, client: Client, message: str, conversation: str | None = None) -> str:
        with client.socket() as socket:
            socket.say(message, conversation)
            end = socket.until_end_allowing()[-1]
        assert end["type"] == "turn.completed", end
        return str(end["conversation"])

    def redis_keys(self) -> dict[bytes, bytes]:
        with redis.Redis.from_url(self.installation.servers.redis_url) as server:
            return {key: server.dump(key) or b"" for key in server.scan_iter()}

    # Processes

    def ours(self) -> list[psutil.Process]:
        """web and runner, which hold the operator's secrets."""
        return [
            psutil.Process(process.child.pid)
            for process in (*self.installation.webs, *self.installation.runners.values())
        ]

    def agents(self) -> list[psutil.Process]:
        return [process for runner in self.installation.runners.values() for process in runner.family()]

    def all_processes(self) -> list[psutil.Process]:
        servers = [
            process
            for process in psutil.process_iter()
            if str(self.installation.folder) in " ".join(_cmdline(process))
        ]
        model = psutil.Process(self.installation.model.child.pid)
        return list(
            {process.pid: process for process in (*self.ours(), *self.agents(), model, *servers)}.values()
        )


type Found = Iterator[tuple[str, bytes, set[str]]]  # where, what is there, which canaries may be


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _read(path: str | Path) -> bytes:
    """What is there; nothing where a process or a file has just gone.

    Nor where the kernel closes it to the ordinary user whom agents share their uid with: root looks into that, too.
    """
    try:
        with open(path, "rb") as file:
            return file.read(MOST_OF_A_FILE)
    except (FileNotFoundError, ProcessLookupError):
        return b""
    except PermissionError:
        if AS_ROOT:
            raise
        return b""


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


# The sinks ----------------------------------------------------------------------------------------------------


def environments(scene: Scene) -> Found:
    ours = {process.pid for process in scene.ours()}
    for process in scene.all_processes():
        given = (
            scene.operators
            if process.pid in ours or process.pid == scene.installation.model.child.pid
            else set()
        )
        yield f"environ of {process.pid}", _read(f"/proc/{process.pid}/environ"), given


def command_lines(scene: Scene) -> Found:
    for process in scene.all_processes():
        yield f"cmdline of {process.pid}", _read(f"/proc/{process.pid}/cmdline"), set()


def open_files(scene: Scene) -> Found:
    for process in scene.all_processes():
        for link in Path(f"/proc/{process.pid}/fd").glob("*"):
            try:
                yield f"open file of {process.pid}", os.fsencode(os.readlink(link)), set()
            except FileNotFoundError:
                continue


def mapped_files(scene: Scene) -> Found:
    for process in scene.all_processes():
        yield f"maps of {process.pid}", _read(f"/proc/{process.pid}/maps"), set()


def agents_memory(scene: Scene) -> Found:
    """What the CLI and all around it hold: what A said to its own, and no secret of anybody."""
    for process in scene.agents():
        for start, end in _writable(process.pid):
            yield f"memory of {process.pid}", _memory(process.pid, start, end), scene.said


def _writable(pid: int) -> Iterator[tuple[int, int]]:
    for line in _read(f"/proc/{pid}/maps").decode().splitlines():
        place, rights, _rest = line.split(" ", 2)
        start, end = (int(part, 16) for part in place.split("-"))
        if rights.startswith("rw") and end - start < MOST_OF_A_FILE * 4:
            yield start, end


def _memory(pid: int, start: int, end: int) -> bytes:
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(start)
            return memory.read(end - start)
    except (OSError, ValueError, OverflowError):  # gone, or never there, as what is only reserved
        return b""


def sockets_of_the_kernel(scene: Scene) -> Found:
    yield "/proc/net/unix", _read("/proc/net/unix"), set()


def shared_memory(scene: Scene) -> Found:
    """Whatever the users have there as whom its processes run; the sandboxes' is a part of the agents' memory."""
    users = {process.uids().real for process in scene.all_processes()}
    for path in _files(Path("/dev/shm")):
        with suppress(FileNotFoundError):
            if path.stat().st_uid in users:
                yield str(path), _read(path), set()


def logs(scene: Scene) -> Found:
    for path in (*scene.installation.folder.glob("*.log"), *_files(scene.installation.folder / "data/logs")):
        yield str(path), _read(path), set()


def folders_of_conversations(scene: Scene) -> Found:
    for path in _files(scene.installation.folder / "s"):
        own = scene.conversation in str(path)
        yield str(path), _read(path), scene.said if own else set()


def files_of_the_installation(scene: Scene) -> Found:
    data = scene.installation.folder / "data"
    for path in _files(data):
        if "postgres" not in path.relative_to(data).parts:
            yield str(path), _read(path), set()


def files_of_postgres(scene: Scene) -> Found:
    """The bytes as they lie on the disk, the write-ahead log too."""
    for path in _files(scene.installation.folder / "data/postgres"):
        yield str(path), _read(path), scene.said


def database_dump(scene: Scene) -> Found:
    """What A said is in rows that name A, and no secret is in any."""
    url = urlsplit(scene.installation.servers.admin_database_url)._replace(path="/parley").geturl()
    dump = subprocess.run([programs() / "pg_dump", url], capture_output=True, check=True).stdout
    assert scene.message.encode() in dump
    for line in dump.splitlines():
        yield "dump", line, scene.said if scene.tenant.encode() in line else set()


def redis_keys(scene: Scene) -> Found:
    for key, value in (*scene.keys.items(), *scene.redis_keys().items()):
        yield f"redis {key!r}", key + value, set()


def others_frames(scene: Scene) -> Found:
    yield "frames of B", scene.heard.encode(), set()


def others_agent(scene: Scene) -> Found:
    assert "PATH=" in scene.seen
    yield "what B's agent saw", scene.seen.encode(), set()


def others_answers(scene: Scene) -> Found:
    b = scene.installation.client(scene.web)
    for path in (
        "conversations",
        "credentials",
        "api-keys",
        "members",
        f"conversations/{scene.conversation}",
    ):
        yield f"B's /v1/{path}", b.call("GET", f"/v1/{path}").content, set()
    yield "B's search", b.call("GET", f"/v1/conversations?q={scene.message[:20]}").content, set()


def own_answers(scene: Scene) -> Found:
    """A's people see what they said, and never a secret again."""
    a = scene.installation.client(scene.web, scene.key)
    for path in ("credentials", "api-keys", f"conversations/{scene.conversation}"):
        yield f"A's /v1/{path}", a.call("GET", f"/v1/{path}").content, scene.said


def answers_to_anybody(scene: Scene) -> Found:
    nobody = Client(scene.web.url, "wrong")
    for path in ("/health", "/ready", "/metrics", "/nothing", "/v1/credentials", "/accounts/login/"):
        yield path, nobody.call("GET", path).content, set()


SINKS: tuple[Callable[[Scene], Found], ...] = (
    environments,
    command_lines,
    open_files,
    mapped_files,
    agents_memory,
    sockets_of_the_kernel,
    shared_memory,
    logs,
    folders_of_conversations,
    files_of_the_installation,
    files_of_postgres,
    database_dump,
    redis_keys,
    others_frames,
    others_agent,
    others_answers,
    own_answers,
    answers_to_anybody,
)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Installation.standing() as installation:
        scene = Scene(installation.up("canaries"), installation.webs[0])
        scene.play()
        yield scene


@pytest.mark.parametrize("sink", SINKS, ids=lambda sink: sink.__name__)
def test_t10_no_canary_lies_where_it_does_not_belong(scene: Scene, sink: Callable[[Scene], Found]) -> None:
    searched, leaks = 0, set()
    for where, content, allowed in sink(scene):
        searched += len(content)
        leaks |= {(where, name) for name in scene.canaries - allowed if name.encode() in content}
    assert searched, "a sink that has nothing in it was not searched"
    assert leaks == set()


def test_the_document_says_how_many_sinks_are_searched() -> None:
    written = re.search(r"searches (\d+) sinks", (ROOT / "docs/security.md").read_text())
    assert written and int(written[1]) == len(SINKS)
