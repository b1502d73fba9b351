"""T11: an agent calls the gateway itself, from its own Bash: what it reaches, and who pays."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from claude_runner.gateway import LARGEST_BODY
from tests.security import attack
from tests.security.inside import SECRET, Agent, agents

pytestmark = pytest.mark.needs_bubblewrap

MODEL = "claude-haiku-5-5"
ATTACK = Path(attack.__file__).read_text()


@pytest.fixture
async def new_agent() -> AsyncIterator[Callable[..., Agent]]:
    async with agents() as new:
        yield new


@pytest.fixture
def agent(new_agent: Callable[..., Agent]) -> Agent:
    agent = new_agent(frozenset({MODEL}), model=MODEL)
    agent.plant("attack.py", ATTACK)
    return agent


async def attacked(agent: Agent, how: str) -> Any:
    """What the agent's program printed; `agent.model.requests` has then only what it got through."""
    said = await agent.say(f"run python3 attack.py {how}")
    return json.loads(next(line for line in said.splitlines() if line.startswith(("{", "[", '"'))))


def by_the_agent(agent: Agent) -> list[Any]:
    """Requests that reached the model and were not the CLI's own."""
    return [r for r in agent.model.requests if not r.headers.get("user-agent", "").startswith("claude-cli")]


async def test_t11_no_other_path_reaches_anybody(agent: Agent) -> None:
    found = await attacked(agent, "paths")
    assert len(found) > 30
    assert {asked: status for asked, status in found.items() if status not in (400, 404, 429)} == {}
    assert by_the_agent(agent) == []


async def test_t11_its_headers_and_parameters_end_at_the_gateway(agent: Agent) -> None:
    status, _said = await attacked(agent, "headers")
    assert status == 200
    [request] = by_the_agent(agent)
    assert request.path == "/v1/messages?beta=true"
    assert request.headers["x-api-key"] == SECRET
    assert request.headers["anthropic-beta"] == "interleaved-thinking"
    told = str(dict(request.headers))
    assert not [word for word in (attack.STOLEN, "other-host", "another-session") if word in told]


async def test_t11_no_other_model_under_any_spelling(agent: Agent) -> None:
    answers = await attacked(agent, "models")
    assert {status for status, _said in answers} == {403}
    assert "claude-opus-5-5 is not allowed here. Choose one of: claude-haiku-5-5." in answers[0][1]
    assert by_the_agent(agent) == []


async def test_t11_a_huge_body_ends_at_the_gateway(agent: Agent) -> None:
    answers = await attacked(agent, "huge")
    assert {status for status, _said in answers} <= {0, 413, 429}
    assert max(len(request.raw) for request in agent.model.requests) < LARGEST_BODY
    assert by_the_agent(agent) == []
    assert "all well" in await agent.say("echo all well"), "the gateway lives on"


async def test_t11_a_body_of_endless_parts_holds_up_nobody(agent: Agent) -> None:
    longest = 0.0

    async def feel() -> None:
        nonlocal longest
        while True:
            began = monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, monotonic() - began)

    feeling = asyncio.create_task(feel())
    try:
        answers = await attacked(agent, "parts")
    finally:
        feeling.cancel()
    assert {status for status, _said in answers} <= {0, 413, 429}
    assert 413 in {status for status, _said in answers}
    assert by_the_agent(agent) == []
    assert longest < 0.5
    assert "all well" in await agent.say("echo all well")


async def test_t11_a_request_hidden_in_another_is_none(agent: Agent) -> None:
    said = await attacked(agent, "smuggle")
    assert "200 OK" not in said
    assert by_the_agent(agent) == []


async def test_t11_a_flood_is_its_own_trouble_and_on_its_own_account(
    agent: Agent, new_agent: Callable[..., Agent]
) -> None:
    neighbour = new_agent()
    await neighbour.say("echo warm")
    flood = asyncio.create_task(attacked(agent, "flood"))
    while not by_the_agent(agent):
        await asyncio.sleep(0.05)
        assert not flood.done()
    clock = asyncio.get_running_loop().time
    began = clock()
    assert "undisturbed" in await neighbour.say("echo undisturbed")
    assert clock() - began < 3
    answers = await flood
    assert answers["429"] > 0
    assert answers["200"] < 120, "forty at a stroke, then ten a second"

    assert len(neighbour.account.settled) == 2, "its own two requests"
    spent = [spending for spending in agent.account.settled if spending.tokens]
    assert len(spent) == len(agent.model.requests) - 2
    assert all(spending.tokens and spending.tokens.input for spending in spent)
    assert "all well" in await agent.say("echo all well")


async def test_t11_nothing_is_spent_between_turns(agent: Agent) -> None:
    late = "sleep 2; python3 attack.py headers"
    await agent.say(f"run setsid sh -c '{late}' > late.txt 2>&1 < /dev/null &")
    before = len(agent.model.requests), len(agent.account.settled)
    await asyncio.sleep(4)
    assert (len(agent.model.requests), len(agent.account.settled)) == before
    assert "200" not in await agent.say("run cat late.txt")
