"""Which tier a real start proves on this machine."""

from claude_runner.spec import Proof, RunnerSettings


def prove_tier(settings: RunnerSettings) -> Proof:
    """Start each tier's sandbox from the strongest down and look around in it. Blocks for about 0.1 s.

    With `settings.tier` named, nothing weaker is tried: raises `SandboxUnavailable` with the reason.
    """
    raise NotImplementedError
