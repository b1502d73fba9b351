"""Each measure drives both sides in the same way and gives the rows of the table."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from time import perf_counter

import psutil

from tests.bench.answer import Answer, BenchFailed, Speaker
from tests.bench.bare import BareCli
from tests.bench.cost import cpu_seconds, memory, quiet
from tests.bench.page import Page
from tests.bench.report import Row, number, times
from tests.bench.stack import Stack

PROMPT = "words 20"
LONG = 2000
# How long a page stands open, and a bare CLI runs, before its first message.
OPENED = 1.0
PAUSE = 0.05
AT_ONCE, ROUNDS = 10, 12
TOGETHER = f"{AT_ONCE} at once"
COSTS = (
    ("private memory", "MB"),
    ("memory with its share (PSS)", "MB"),
    ("CPU of a turn", "ms"),
    ("CPU at rest", "ms/s"),
)


@dataclass(slots=True)
class Bench:
    """What the measures share: both sides, and what was seen of ours on the way."""

    stack: Stack
    folder: Path
    timings: list[dict[str, float]] = field(default_factory=list)
    forgotten: list[Page] = field(default_factory=list)

    async def bare(self) -> BareCli:
        cli = await BareCli.start(self.folder, self.stack.model_url)
        await cli.initialize()
        return cli

    async def page(self) -> Page:
        page = await Page.open(self.stack)
        await page.warm()
        return page


async def turn_about(rounds: int, *speakers: Speaker, prompt: str = PROMPT) -> list[list[Answer]]:
    """A B A B …: each speaker's answers."""
    said: list[list[Answer]] = [[] for _ in speakers]
    for _ in range(rounds):
        for speaker, answers in zip(speakers, said, strict=True):
            answers.append(await speaker.say(prompt))
            await asyncio.sleep(PAUSE)
    return said


async def live(bench: Bench) -> list[Row]:
    """Next turns on a live process; one long answer; the wait of a queued message."""
    cli, page = await bench.bare(), await bench.page()
    await turn_about(3, cli, page)
    bare, ours = await turn_about(60, cli, page)
    bench.timings += [answer.timing for answer in ours]
    long_bare, long_ours = await turn_about(8, cli, page, prompt=f"words {LONG}")
    if any(len(answer.text.split()) != LONG for answer in long_bare + long_ours):
        raise BenchFailed("an answer was not whole")
    gaps = [await page.gap("slow 5 0.25", PROMPT) for _ in range(12)]
    await cli.close()
    await page.close()
    return [
        *times("warm: first text", _firsts(bare), _firsts(ours), 1.3, 2.0),
        *times("warm: turn over", [a.ended for a in bare], [a.ended for a in ours]),
        Row(f"{LONG} words", "words/s", _rate(long_bare), _rate(long_ours), at_least=1.0),
        Row("from a turn's end to the queued one's start, mean", "ms", None, fmean(gaps) * 1000, at_most=50),
        Row("from a turn's end to the queued one's start, worst", "ms", None, max(gaps) * 1000, at_most=50),
    ]


def _firsts(answers: Sequence[Answer]) -> list[float]:
    return [answer.first_text for answer in answers]


def _rate(answers: Sequence[Answer]) -> float:
    """Words a second, from asking to the last of them, over all answers."""
    return LONG * len(answers) / sum(answer.last_text for answer in answers)


async def opened(bench: Bench) -> list[Row]:
    """The first message on a page that was opened a second ago, beside a CLI that was started then."""
    bare: list[Answer] = []
    ours: list[Answer] = []
    for _ in range(8):
        for make, answers in ((bench.bare, bare), (bench.page, ours)):
            began = perf_counter()
            speaker: Speaker = await make()
            await asyncio.sleep(OPENED - (perf_counter() - began))
            answers.append(await speaker.say(PROMPT))
            await speaker.close()
            if isinstance(speaker, Page):
                bench.forgotten.append(speaker)
    return times("first message: first text", _firsts(bare), _firsts(ours), 1.3)


async def resumed(bench: Bench) -> list[Row]:
    """Conversations whose process has gone: ours from Postgres, the bare one's from its files."""
    former = []
    for _ in bench.forgotten:
        cli = await bench.bare()
        await cli.say(PROMPT)
        await cli.close()
        former.append(cli)
    await bench.stack.restart_runner()
    await quiet(5)
    bare: list[Answer] = []
    ours: list[Answer] = []
    for cli, page in zip(former, bench.forgotten, strict=True):
        bare.append(await _resume(cli, bench.stack.model_url))
        again = await Page.open(bench.stack, page.conversation)
        ours.append(await again.say("recall"))
        await again.close()
        if PROMPT not in ours[-1].text:
            raise BenchFailed(f"our side did not remember: {ours[-1].text}")
        await asyncio.sleep(PAUSE)
    return times("resumed, start included: first text", _firsts(bare), _firsts(ours))


async def _resume(former: BareCli, model_url: str) -> Answer:
    asked = perf_counter()
    cli = await BareCli.resume(former, model_url)
    await cli.initialize()
    answer = await cli.say("recall")
    answer.first_text += answer.asked - asked
    await cli.close()
    if PROMPT not in answer.text:
        raise BenchFailed(f"the bare CLI did not remember: {answer.text}")
    return answer


async def pages(bench: Bench) -> list[Row]:
    """The statements of a page, for a conversation of some turns."""
    page = await bench.page()
    for _ in range(5):
        await page.say(PROMPT)
    await page.close()
    assert page.conversation is not None
    counted = await bench.stack.queries(page.conversation)
    return [Row(f"queries of {name}", "", None, queries) for name, queries in counted.items()]


@dataclass(slots=True)
class Crowd:
    """What ten conversations at once gave."""

    firsts: list[Answer]
    nexts: list[Answer]
    seconds: float

    @property
    def rate(self) -> float:
        return len(self.nexts) / self.seconds


async def crowd(speakers: Sequence[Speaker], on_nexts: Callable[[], None]) -> Crowd:
    """All first messages at once; then each asks on as soon as it was answered."""
    firsts = await asyncio.gather(*(speaker.say(PROMPT) for speaker in speakers))
    await quiet(3)
    on_nexts()
    began = perf_counter()
    nexts = await asyncio.gather(*map(_ask_on, speakers))
    return Crowd(firsts, [answer for each in nexts for answer in each], perf_counter() - began)


async def _ask_on(speaker: Speaker) -> list[Answer]:
    return [await speaker.say(PROMPT) for _ in range(ROUNDS)]


async def at_once(bench: Bench) -> tuple[list[Row], str]:
    """Ten conversations on each side, and what a live one of them costs."""
    bare_side, bare_cost = await _bare_crowd(bench)
    our_side, our_cost, parts = await _our_crowd(bench)
    bare_firsts, our_firsts = _firsts(bare_side.firsts), _firsts(our_side.firsts)
    rows = [
        *times(f"{TOGETHER}, first message: first text", bare_firsts, our_firsts, 1.2, 1.2),
        *times(f"{TOGETHER}, next turns: first text", _firsts(bare_side.nexts), _firsts(our_side.nexts)),
        Row(f"{TOGETHER}, next turns", "turns/s", bare_side.rate, our_side.rate, at_least=0.9),
    ]
    costs = zip(bare_cost, our_cost, strict=True)
    rows += [
        Row(f"a live conversation: {name}", unit, bare, ours)
        for (name, unit), (bare, ours) in zip(COSTS, costs, strict=True)
    ]
    return rows, parts


type Costs = tuple[float, float, float, float]


async def _bare_crowd(bench: Bench) -> tuple[Crowd, Costs]:
    clis = [await bench.bare() for _ in range(AT_ONCE)]
    await quiet(5)
    processes = [psutil.Process(cli.pid) for cli in clis]
    before: dict[str, float] = {}
    said = await crowd(clis, lambda: before.update(cpu_seconds({"cli": processes})))
    used = cpu_seconds({"cli": processes})["cli"] - before["cli"]
    costs = await _costs(processes, used)
    for cli in clis:
        await cli.close()
    return said, costs


async def _our_crowd(bench: Bench) -> tuple[Crowd, Costs, str]:
    former = set(bench.stack.parts()["cli"])
    pages = [await bench.page() for _ in range(AT_ONCE)]
    await _started(bench, former)
    await quiet(5)
    parts = bench.stack.parts()
    parts["cli"] = [process for process in parts["cli"] if process not in former]
    before: dict[str, float] = {}
    said = await crowd(pages, lambda: before.update(cpu_seconds(parts)))
    used = {name: seconds - before[name] for name, seconds in cpu_seconds(parts).items()}
    shares = ", ".join(f"{name} {number(s / len(said.nexts) * 1000)}" for name, s in used.items())
    sizes = ", ".join(f"{name} {number(memory(parts[name]).share)}" for name in parts if name != "cli")
    costs = await _costs(parts["cli"], used["cli"])
    for page in pages:
        await page.close()
    return said, costs, f"CPU of a turn, ms: {shares}\nmemory (PSS), MB: {sizes}"


async def _started(bench: Bench, former: set[psutil.Process], within: float = 30.0) -> None:
    until = perf_counter() + within
    while sum("claude" in process.name() for process in set(bench.stack.parts()["cli"]) - former) < AT_ONCE:
        if perf_counter() > until:
            raise BenchFailed(f"the stack did not warm up {AT_ONCE} pages")
        await asyncio.sleep(0.2)


async def _costs(processes: Sequence[psutil.Process], turns_used: float) -> Costs:
    """Of one conversation: private MB, MB with its share, CPU ms of a turn, CPU ms a second at rest."""
    await quiet(5)
    size = memory(processes)
    before, seconds = cpu_seconds({"cli": list(processes)})["cli"], 3.0
    await asyncio.sleep(seconds)
    rest = cpu_seconds({"cli": list(processes)})["cli"] - before
    return (
        size.private / AT_ONCE,
        size.share / AT_ONCE,
        turns_used / (AT_ONCE * ROUNDS) * 1000,
        rest / seconds / AT_ONCE * 1000,
    )


def timing_rows(timings: Sequence[dict[str, float]]) -> list[Row]:
    names = sorted({name for timing in timings for name in timing})
    return [
        Row(f"warm: mean {name}", "ms", None, fmean(timing.get(name, 0) for timing in timings))
        for name in names
    ]


type Measure = Callable[[Bench], Awaitable[list[Row]]]
