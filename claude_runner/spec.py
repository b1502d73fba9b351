"""What goes in: the frozen values that other apps hand to the engine."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID


class Tier(StrEnum):
    """How strongly a conversation is walled in, strongest first."""

    BUBBLEWRAP_UID = "bubblewrap-uid"
    BUBBLEWRAP = "bubblewrap"
    LANDLOCK = "landlock"
    NONE = "none"


OWN_UID = "own uid"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe found inside. `detail`: the hole in words, where it does not hold."""

    name: str
    holds: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """The tier that a real start proved. `reason`: why nothing stronger, and what would help; or "".

    `findings`: every probe of what that tier promises, so that all hold; of `none`, which promises nothing, all.
    """

    tier: Tier
    reason: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def parts_tenants(self) -> bool:
        """Whether conversations are kept from each other, and from all that is the runner's own.

        Landlock guards no unix socket and no process by itself: that takes a uid of their own.
        """
        own_uid = any(finding.name == OWN_UID and finding.holds for finding in self.findings)
        return self.tier in (Tier.BUBBLEWRAP_UID, Tier.BUBBLEWRAP) or (self.tier is Tier.LANDLOCK and own_uid)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one conversation may use. Bytes and seconds; a turn's time leaves out what a person takes to answer.

    `memory` counts what is a process's own, and its temporary files. `processes` counts threads too. `disk` and
    `files` count its home, its workspace and the CLI's own folder, `file` is the largest single file. `output` is
    what the CLI writes in a turn, complaints too, `cpu` what all of its processes compute in one.
    """

    memory: int = 4 << 30
    processes: int = 1024
    cpu: float = 7200.0
    disk: int = 10 << 30
    files: int = 400_000
    file: int = 4 << 30
    output: int = 64 << 20
    turn: float = 7200.0


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """What one host's engine needs to know. Times in seconds.

    `sandbox_dir` must be short: a unix socket's path has 108 bytes. `max_processes=None` takes the limit from
    the memory of the machine. `cli_path=None` takes the CLI that the SDK's wheel brings. With less than `free_disk`
    bytes left for its files the host begins no turn.
    """

    sandbox_dir: Path
    tier: Tier | None = None
    max_processes: int | None = None
    cli_path: Path | None = None
    idle_after: float = 900.0
    hung_after: float = 180.0
    start_within: float = 60.0
    max_retries: int = 6
    free_disk: int = 512 << 20
    limits: Limits = Limits()
    # A range that neither distributions nor systemd hand out: see systemd's UIDS-GIDS.
    first_uid: int = 1_879_048_192
    uids: int = 268_304_384


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """All that a process is made of; equal specs are interchangeable processes.

    `conversation`: uuid as text, also the CLI's session id. `system_prompt` is appended to Claude Code's
    own. `credential_kind` (oauth_token, api_key, endpoint) decides which placeholder the CLI gets.
    `tools` names the built-in tools; empty takes the CLI's own set, which has Grep and Glob only by name.
    """

    conversation: str
    tenant: str
    model: str | None = None
    system_prompt: str = ""
    permission_mode: str = "default"
    credential_kind: str = "api_key"
    tools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where the gateway sends model requests, and the secret that it adds outside the sandbox."""

    kind: str
    base_url: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Grant:
    """That one request may go to the model: where, with what, and which models it may name.

    `credential` is the account's own name for what it gave; an empty `models` allows all.
    """

    upstream: Upstream
    credential: str = ""
    models: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Tokens:
    """What an answer of the model counted. `exact`: its server said so; else it is our estimate.

    `cache_write_1h` are those of `cache_write` that are kept for an hour; `fast`: answered at the dearer speed.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    searches: int = 0
    fast: bool = False
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Spending:
    """What became of one request to the model. `status` is its server's, `tokens` None where it used none.

    `request` names it for good: the same one told twice counts once.
    """

    request: UUID
    status: int
    model: str = ""
    tokens: Tokens | None = None


class Account(Protocol):
    """Who pays for a conversation's requests to the model. A gateway asks it before each one."""

    async def admit(self) -> Grant:
        """Leave for one request, as things stand now; raises Refused with the reason."""

    async def settle(self, grant: Grant, spending: Spending) -> None:
        """Take down what a request under this grant came to; called once for each that reached the server."""


@dataclass(frozen=True, slots=True)
class Question:
    """The CLI asks whether a tool may run. `choices`: of allow, allow_always, deny."""

    request: str
    tool_use: str
    name: str
    input: dict[str, Any]
    title: str
    choices: list[str]


@dataclass(frozen=True, slots=True)
class Answer:
    """`decision`: one of the question's choices. `message` goes to the model when denied."""

    decision: str
    message: str = ""


type Content = str | list[dict[str, Any]]
type Ask = Callable[[Question], Awaitable[Answer]]
