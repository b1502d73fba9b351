"""An account with one upstream that never ends, and a memory of what it was asked and told."""

from dataclasses import dataclass, field

from claude_runner import Grant, Refused, Spending, Upstream


@dataclass
class Purse:
    """`refuses` may be set at any time, as a credential may be revoked."""

    upstream: Upstream
    models: frozenset[str] = frozenset()
    refuses: Refused | None = None
    admitted: int = 0
    settled: list[Spending] = field(default_factory=list)

    async def admit(self) -> Grant:
        if self.refuses is not None:
            raise self.refuses
        self.admitted += 1
        return Grant(self.upstream, "the only one", self.models)

    async def settle(self, grant: Grant, spending: Spending) -> None:
        self.settled.append(spending)
