"""The CLI's memory of a conversation: the store is the truth, the local file is rebuilt at each start."""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from claude_agent_sdk import SessionStore

from claude_runner.child import uncancelled
from claude_runner.folders import Place

# Every sandbox works at /workspace, so the key is the same on every host and tier.
PROJECT_KEY = "-workspace"
CANONICAL_CONFIG = "/config"


@dataclass(frozen=True, slots=True)
class Memory:
    """What the store knew: whether there is anything to resume, and what the session had cost by then."""

    found: bool
    cost: float = 0.0
    model_usage: dict[str, Any] = field(default_factory=dict)


async def restore(store: SessionStore, session: str, place: Place, workspace: Path) -> Memory:
    """Write what the store has of the session into the place's fresh config. OSError where that is not possible.

    In threads, for what an agent left may be hundreds of thousands of files; never cut off, or a thread would go on
    writing below the next process.
    """
    entries = await store.load({"project_key": PROJECT_KEY, "session_id": session})
    await uncancelled(asyncio.to_thread(place.fresh_config))
    if not entries:
        return Memory(found=False)
    project = place.config / "projects" / _folder_name(workspace)
    await uncancelled(asyncio.to_thread(_write, place, project / f"{session}.jsonl", entries))
    for subpath in await _subkeys(store, session):
        key = {"project_key": PROJECT_KEY, "session_id": session, "subpath": subpath}
        loaded = await store.load(key)  # type: ignore[arg-type]
        path = project / session / f"{subpath}.jsonl"
        await uncancelled(asyncio.to_thread(_write_agent, place, path, loaded or []))
    return await asyncio.to_thread(_memory, entries)


def _memory(entries: Iterable[Any]) -> Memory:
    """The CLI goes on counting from the last `cost-state` entry, which it writes when it ends in order."""
    states = [entry for entry in entries if entry.get("type") == "cost-state"]
    if not states:
        return Memory(found=True)
    return Memory(True, float(states[-1].get("totalCostUSD") or 0), states[-1].get("modelUsage") or {})


async def _subkeys(store: SessionStore, session: str) -> list[str]:
    try:
        subkeys = await store.list_subkeys({"project_key": PROJECT_KEY, "session_id": session})
    except NotImplementedError:
        return []
    return [subpath for subpath in subkeys if _is_safe(subpath)]


def _is_safe(subpath: str) -> bool:
    parts = PurePosixPath(subpath).parts
    return bool(parts) and parts[0] == "subagents" and ".." not in parts and "\0" not in subpath


def _write_agent(place: Place, path: Path, entries: Iterable[Any]) -> None:
    """A subagent's transcript, and its `agent_metadata` entries (the last one counts) in a file beside it."""
    lines, metadata = [], None
    for entry in entries:
        if entry.get("type") == "agent_metadata":
            metadata = {name: value for name, value in entry.items() if name != "type"}
        else:
            lines.append(entry)
    if lines:
        _write(place, path, lines)
    if metadata is not None:
        _write(place, path.with_suffix(".meta.json"), [metadata])


def _write(place: Place, path: Path, entries: Iterable[Any]) -> None:
    for folder in reversed(path.relative_to(place.config).parents[:-1]):
        place.make(place.config / folder)
    place.write(path, (json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries))


def _folder_name(workspace: Path) -> str:
    """How the CLI names the folder of a project: its path with all but letters and digits as dashes."""
    return "".join(char if char.isascii() and char.isalnum() else "-" for char in str(workspace))


def canonical_path(file_path: str, config: Path, session: str) -> str | None:
    """A mirrored file's path as the store knows it; None for a file that is not this session's.

    The frame comes out of the sandbox: it must not name another conversation's memory.
    """
    try:
        parts = PurePosixPath(file_path).relative_to(config / "projects").parts
    except ValueError:
        return None
    if len(parts) < 2 or ".." in parts or parts[1] not in (session, f"{session}.jsonl"):
        return None
    return str(PurePosixPath(CANONICAL_CONFIG, "projects", PROJECT_KEY, *parts[1:]))
