"""The engine: a launch spec in, typed events out. Knows neither Django nor the other apps."""

from claude_runner.cli import cli_version
from claude_runner.descriptors import open_as_many_as_allowed
from claude_runner.errors import CliMissing, EngineError, NoRoom, Refused, SandboxUnavailable, StartFailed
from claude_runner.events import (
    Event,
    Status,
    TextDelta,
    ThinkingDelta,
    ToolFinished,
    ToolStarted,
    TurnEnd,
    Usage,
)
from claude_runner.pool import Pool
from claude_runner.probe import LACKS, prove_again, prove_tier
from claude_runner.spec import (
    Account,
    Answer,
    Ask,
    Content,
    Finding,
    Grant,
    LaunchSpec,
    Limits,
    Proof,
    Question,
    RunnerSettings,
    Spending,
    Tier,
    Tokens,
    Upstream,
)

__all__ = [
    "LACKS",
    "Account",
    "Answer",
    "Ask",
    "CliMissing",
    "Content",
    "EngineError",
    "Event",
    "Finding",
    "Grant",
    "LaunchSpec",
    "Limits",
    "NoRoom",
    "Pool",
    "Proof",
    "Question",
    "Refused",
    "RunnerSettings",
    "SandboxUnavailable",
    "Spending",
    "StartFailed",
    "Status",
    "TextDelta",
    "ThinkingDelta",
    "Tier",
    "Tokens",
    "ToolFinished",
    "ToolStarted",
    "TurnEnd",
    "Upstream",
    "Usage",
    "cli_version",
    "open_as_many_as_allowed",
    "prove_again",
    "prove_tier",
]
