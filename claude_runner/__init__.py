"""The engine: a launch spec in, typed events out. Knows neither Django nor the other apps."""

from claude_runner.cli import cli_version
from claude_runner.errors import CliMissing, EngineError, NoRoom, SandboxUnavailable, StartFailed
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
from claude_runner.probe import prove_tier
from claude_runner.spec import (
    Answer,
    Ask,
    Content,
    Finding,
    LaunchSpec,
    Proof,
    Question,
    RunnerSettings,
    Tier,
    Upstream,
)

__all__ = [
    "Answer",
    "Ask",
    "CliMissing",
    "Content",
    "EngineError",
    "Event",
    "Finding",
    "LaunchSpec",
    "NoRoom",
    "Pool",
    "Proof",
    "Question",
    "RunnerSettings",
    "SandboxUnavailable",
    "StartFailed",
    "Status",
    "TextDelta",
    "ThinkingDelta",
    "Tier",
    "ToolFinished",
    "ToolStarted",
    "TurnEnd",
    "Upstream",
    "Usage",
    "cli_version",
    "prove_tier",
]
