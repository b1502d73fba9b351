"""T31: a budget that runs out in the middle of a turn, in a whole installation."""

import time
from decimal import ROUND_UP, Decimal
from typing import Any

import pytest

from tests.client import Client, is_exact, text_of
from tests.security.whole import say
from tests.stack import Installation, eventually

pytestmark = pytest.mark.needs_bubblewrap

# It has a price, also behind the offline model's address; its first request comes to about 0.03 USD.
MODEL = "claude-opus-5-5"
CENT = Decimal("0.01")


def spent(whole: Installation) -> tuple[Decimal, Decimal, int]:
    """The ledger's sum, the month's sum, and the ledger's entries."""
    query: Any = whole.query
    return (
        query("SELECT coalesce(sum(cost_usd), 0) FROM conversations_ledgerentry"),
        query("SELECT coalesce(sum(cost_usd), 0) FROM conversations_monthspent"),
        query("SELECT count(*) FROM conversations_ledgerentry"),
    )


def test_t31_a_budget_that_runs_out_in_the_middle_ends_the_turn_and_keeps_what_was_said(
    whole: Installation,
) -> None:
    client: Client = whole.client(whole.webs[0])
    slug = whole.query("SELECT slug FROM tenants_tenant")
    before = spent(whole)
    # Less than the first request comes to, beyond what other tests of this installation have spent.
    budget = before[0].quantize(CENT, ROUND_UP) + CENT
    whole.manage("set_budget", slug, str(budget))
    with client.socket() as socket:
        heard = say(socket, MODEL, "run echo the first step\nrun echo the second step")
        conversation, end = heard[0]["conversation"], heard[-1]
        kinds = [event["type"] for event in heard]

        assert end["type"] == "turn.failed"
        assert end["error"]["type"] == "billing_error"
        assert end["error"]["message"].startswith(f"This month's budget of {budget} USD is used up.")
        assert kinds.count("tool.started") == 1, "the second step was never asked for"
        assert "the first step" in str([event for event in heard if event["type"] == "tool.finished"])
        ledger, month, entries = spent(whole)
        assert entries == before[2] + 1, "one request was let pass, the next one was not"
        assert ledger == month > budget > before[0]

        again = say(socket, MODEL, "recall", conversation)
        assert again[-1]["error"] == end["error"]

        # The same without a live process: none is started for it.
        whole.runners.pop("one").kill()
        whole.runner("one")
        asked = time.monotonic()
        again = say(socket, MODEL, "recall", conversation)
        assert again[-1]["error"] == end["error"]
        assert "status" not in [event["type"] for event in again]
        assert time.monotonic() - asked < 15, "a lease of the killed runner ends first"
        assert spent(whole) == (ledger, month, entries)

        whole.manage("set_budget", slug, "none")
        heard += (after := say(socket, MODEL, "recall", conversation))
        assert after[-1]["type"] == "turn.completed", after[-1]
        assert "the first step" in " ".join(text_of(after).split())
    stored = client.events(conversation, until=after[-1]["seq"])
    assert is_exact(stored)
    assert [event["type"] for event in stored][: len(kinds)] == kinds


def test_t31_what_a_turn_came_to_is_what_the_ledger_has(whole: Installation) -> None:
    client = whole.client(whole.webs[0])
    with client.socket() as socket:
        heard = say(
            socket,
            MODEL,
            'use Agent {"description": "d", "prompt": "echo below", "subagent_type": "general-purpose"}',
        )
    assert heard[-1]["type"] == "turn.completed"
    query: Any = whole.query
    of_turn = "FROM conversations_ledgerentry WHERE turn_id = %s"
    # The last one is entered while the turn's end goes out.
    eventually(lambda: query(f"SELECT count(*) {of_turn}", heard[-1]["turn"]) == 3)
    cost = query(f"SELECT sum(cost_usd) {of_turn}", heard[-1]["turn"])
    assert float(cost) == pytest.approx(heard[-1]["cost_usd"], abs=1e-6)
