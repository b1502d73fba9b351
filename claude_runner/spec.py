"""What goes in: the frozen values that other apps hand to the engine."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Tier(StrEnum):
    """How strongly a conversation is walled in, strongest first."""

    BUBBLEWRAP_UID = "bubblewrap-uid"
    BUBBLEWRAP = "bubblewrap"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe found inside. `detail`: the hole in words, where it does not hold."""

    name: str
    holds: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """The tier that a real start proved. `reason`: why nothing stronger, and what would help; or "".

    `findings`: every probe of that tier; a tier without walls is proved although little of it holds.
    """

    tier: Tier
    reason: str = ""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """What one host's engine needs to know. Times in seconds.

    `sandbox_dir` must be short: a unix socket's path has 108 bytes. `max_processes=None` takes the limit from
    the memory of the machine. `cli_path=None` takes the CLI that the SDK's wheel brings.
    """

    sandbox_dir: Path
    tier: Tier | None = None
    max_processes: int | None = None
    cli_path: Path | None = None
    idle_after: float = 900.0
    hung_after: float = 180.0
    start_within: float = 60.0
    max_retries: int = 6
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
