"""Which headers pass a gateway, by name: what is not named here ends at it, in both directions."""

from collections.abc import Mapping

from multidict import CIMultiDict

from claude_runner.spec import Upstream

OAUTH_BETA = "oauth-2025-04-20"
OUTWARD = frozenset(
    {
        *("accept", "content-type", "user-agent", "x-app"),
        *("anthropic-version", "anthropic-beta", "anthropic-dangerous-direct-browser-access"),
    }
)
INWARD = frozenset(
    {
        *("content-type", "content-encoding", "request-id", "x-request-id"),
        *("retry-after", "retry-after-ms", "x-should-retry"),
    }
)
OUTWARD_FAMILIES = ("x-stainless-",)
INWARD_FAMILIES = ("anthropic-ratelimit-",)
# With these the model's server itself would fetch, run or keep what the agent names: ways out of the sandbox.
BETAS_NOT_ASKED_FOR = ("mcp-client-", "files-api-", "code-execution-", "web-fetch-", "skills-")


def outward(headers: Mapping[str, str], upstream: Upstream) -> CIMultiDict[str]:
    """What the model's server gets: the credential is the upstream's, whatever came."""
    out = _passing(headers, OUTWARD, OUTWARD_FAMILIES)
    # Counts are read from the answer as it passes.
    out["Accept-Encoding"] = "identity"
    betas = [beta.strip() for value in out.popall("anthropic-beta", []) for beta in value.split(",")]
    asked = [beta for beta in betas if beta and not beta.startswith(BETAS_NOT_ASKED_FOR)]
    if upstream.kind == "oauth_token":
        asked.append(OAUTH_BETA)
    if asked:
        out["anthropic-beta"] = ",".join(dict.fromkeys(asked))
    if upstream.kind == "api_key":
        out["x-api-key"] = upstream.secret
    else:
        out["Authorization"] = f"Bearer {upstream.secret}"
    return out


def inward(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """What the sandbox gets back: nothing that names the credential's owner."""
    return _passing(headers, INWARD, INWARD_FAMILIES)


def _passing(
    headers: Mapping[str, str], named: frozenset[str], families: tuple[str, ...]
) -> CIMultiDict[str]:
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if name.lower() in named or name.lower().startswith(families)
    )
