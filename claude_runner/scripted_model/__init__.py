"""An offline model that follows a script and speaks the Messages API. It is not Claude.

It stands where the real API stands, so that a first look and the tests drive the real Claude Code CLI
without an account: only the words are scripted. What it understands is in `docs/offline-model.md`.

    python -m claude_runner.scripted_model --port 8001

    async with ScriptedModel() as model:
        ...                                  # point ANTHROPIC_BASE_URL at model.url
        assert model.requests[-1].headers["x-api-key"] == "secret"

The straight line of one request: `request` (what was asked) → `script` (what to say) → `stream` (the
bytes) → `server` (the wire).
"""

from claude_runner.scripted_model.answer import MODELS
from claude_runner.scripted_model.server import RecordedRequest, ScriptedModel

__all__ = ["MODELS", "RecordedRequest", "ScriptedModel"]
