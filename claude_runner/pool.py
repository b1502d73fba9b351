"""One live process per conversation, kept while it is used, within the limits of the machine."""

from collections.abc import AsyncIterator, Callable

from claude_agent_sdk import SessionStore

from claude_runner.events import Event
from claude_runner.spec import Ask, Content, LaunchSpec, RunnerSettings, Tier, Upstream


class Pool:
    """All live processes of this host. Use it from one event loop; start it inside that loop's thread."""

    def __init__(
        self, settings: RunnerSettings, tier: Tier, on_evict: Callable[[str], None] | None = None
    ) -> None:
        self.settings = settings
        self.tier = tier
        self.on_evict = on_evict

    async def warm(self, spec: LaunchSpec, upstream: Upstream, store: SessionStore) -> None:
        """Start (or keep) the conversation's process, so that a first message finds it ready."""
        raise NotImplementedError

    def turn(
        self, spec: LaunchSpec, upstream: Upstream, store: SessionStore, content: Content, ask: Ask
    ) -> AsyncIterator[Event]:
        """One turn. Ends with exactly one TurnEnd and raises nothing for faults of the engine.

        A turn that its reader abandons (`aclose`, cancellation) is interrupted.
        """
        raise NotImplementedError

    async def interrupt(self, conversation: str) -> None:
        """End the running turn: returns when it has ended, by force if need be."""
        raise NotImplementedError

    async def set_model(self, conversation: str, value: str | None) -> None:
        """Takes effect at once; a conversation without a live process has nothing to change."""
        raise NotImplementedError

    async def set_permission_mode(self, conversation: str, value: str) -> None:
        raise NotImplementedError

    async def stop(self, conversation: str) -> None:
        """Returns when the process and all that it started are gone."""
        raise NotImplementedError

    async def stop_all(self) -> None:
        raise NotImplementedError

    def live(self) -> set[str]:
        """The conversations that have a process, starting ones included."""
        raise NotImplementedError

    def room(self) -> bool:
        """Whether one more conversation could have a process now, evicting an idle one if need be."""
        raise NotImplementedError

    def has_files(self, conversation: str) -> bool:
        """Whether anything lies in the conversation's workspace on this host."""
        raise NotImplementedError

    def forget(self, conversation: str) -> None:
        """Delete the conversation's folder. Blocks while it deletes; the process must be stopped."""
        raise NotImplementedError
