"""What a model's tokens cost: list prices in USD for a million tokens, for estimates and budgets.

Read on 2026-11-23 from the catalogue inside Claude Code CLI 2.1.330, whose bill they are held against by
tests/claude_runner/test_usage.py. A bill of the provider may differ (discounts, batches).
"""

import re
from dataclasses import dataclass
from decimal import Decimal

from claude_runner.spec import Tokens

MILLION = Decimal(1_000_000)
SEARCH = Decimal("0.01")
FAST = 2
# 'claude-haiku-4-5-20251001', 'us.anthropic.claude-opus-5-v1:0', 'claude-sonnet-5[1m]' are one model each.
NAME = re.compile(r"claude-[a-z0-9-]+?(?=-\d{8}|-latest|-v\d|[@:\[]|$)")


@dataclass(frozen=True, slots=True)
class Price:
    """Writing to the cache costs 1.25 of an input token, for an hour twice as much as the token."""

    input: Decimal
    output: Decimal
    cache_read: Decimal
    long_above: int | None = None
    long_factor: int = 1

    def of(self, tokens: Tokens) -> Decimal:
        short_writes = tokens.cache_write - tokens.cache_write_1h
        cost = (
            self.input * tokens.input
            + self.output * tokens.output
            + self.cache_read * tokens.cache_read
            + self.input * (short_writes * Decimal("1.25") + tokens.cache_write_1h * 2)
        ) / MILLION
        prompt = tokens.input + tokens.cache_read + tokens.cache_write
        if self.long_above is not None and prompt > self.long_above:
            cost *= self.long_factor
        return cost * (FAST if tokens.fast else 1) + SEARCH * tokens.searches


def _price(input: str, output: str, cache_read: str, **more: int) -> Price:
    return Price(Decimal(input), Decimal(output), Decimal(cache_read), **more)


_OPUS_4, _OPUS_4_5, _SONNET = _price("15", "75", "1.5"), _price("5", "25", "0.5"), _price("3", "15", "0.3")
_FABLE, _FABLE_5_1, _FABLE_5_2 = (
    _price("10", "50", "1"),
    _price("10", "50", "0.25"),
    _price("8", "40", "0.2"),
)
PRICES = {
    "claude-3-5-haiku": _price("0.8", "4", "0.08"),
    "claude-haiku-4-5": _price("1", "5", "0.1"),
    "claude-haiku-5-5": _price("0.1", "0.5", "0.01", long_above=100_000, long_factor=5),
    "claude-3-5-sonnet": _SONNET,
    "claude-3-7-sonnet": _SONNET,
    "claude-sonnet-4": _SONNET,
    "claude-sonnet-4-0": _SONNET,
    "claude-sonnet-4-5": _SONNET,
    "claude-sonnet-4-6": _SONNET,
    "claude-sonnet-5": _price("2", "10", "0.2"),
    "claude-sonnet-5-5": _price("2", "10", "0.1"),
    "claude-opus-4": _OPUS_4,
    "claude-opus-4-0": _OPUS_4,
    "claude-opus-4-1": _OPUS_4,
    "claude-opus-4-5": _OPUS_4_5,
    "claude-opus-4-6": _OPUS_4_5,
    "claude-opus-4-7": _OPUS_4_5,
    "claude-opus-4-8": _OPUS_4_5,
    "claude-opus-5": _OPUS_4_5,
    "claude-opus-5-5": _price("4", "20", "0.2"),
    "claude-fable-5": _FABLE,
    "claude-fable-5-1": _FABLE_5_1,
    "claude-fable-5-2": _FABLE_5_2,
    "claude-mythos-5": _FABLE,
    "claude-mythos-5-1": _FABLE_5_1,
    "claude-mythos-5-2": _FABLE_5_2,
}
DEAREST = _OPUS_4


def price_of(model: str) -> Price | None:
    """None for a model that is not in the table."""
    name = NAME.search(model.lower())
    return PRICES.get(name[0]) if name else None
