"""`python -m tests.bench [--json FILE]`: measures, prints a table, writes JSON. A missed aim is no failure."""

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil
from claude_agent_sdk._cli_version import __cli_version__

from tests.bench import measures
from tests.bench.measures import Bench
from tests.bench.report import Row, table
from tests.bench.stack import Stack


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench", description=__doc__)
    default = Path(os.environ.get("DATA_DIR", "var")) / "bench.json"
    parser.add_argument("--json", type=Path, default=default, help=f"where the figures go ({default})")
    given = parser.parse_args()
    began = perf_counter()
    about = _machine()
    with tempfile.TemporaryDirectory(prefix="parley-") as folder:
        # A sandbox's own user has to pass through.
        Path(folder).chmod(0o711)
        rows, parts = asyncio.run(_measure(Path(folder), about))
    about["seconds"] = round(perf_counter() - began)
    print("\n" + "\n".join(f"{name}: {value}" for name, value in about.items()))
    print(f"\n{table(rows)}\n\n{parts}")
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(
        json.dumps({"about": about, "rows": [row.as_json() for row in rows]}, indent=1) + "\n"
    )
    print(f"\nJSON in {given.json}")


async def _measure(folder: Path, about: dict[str, Any]) -> tuple[list[Row], str]:
    this = asyncio.current_task()
    assert this is not None
    # Whatever ends us, the stack ends with us.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    async with Stack(folder) as stack:
        about["sandbox"] = stack.sandbox["tier"]
        bench = Bench(stack, folder / "bare")
        rows: list[Row] = []
        for measure in (measures.pages, measures.live, measures.opened):
            _say(measure.__doc__)
            rows += await measure(bench)
        _say(measures.at_once.__doc__)
        together, parts = await measures.at_once(bench)
        _say(measures.resumed.__doc__)
        rows += await measures.resumed(bench) + together
        return rows + measures.timing_rows(bench.timings), parts


def _say(text: str | None) -> None:
    print(f"- {text}", file=sys.stderr, flush=True)


def _machine() -> dict[str, Any]:
    """What a figure is worth nothing without. `busy` is what others did just before (percent of all cores)."""
    busy = psutil.cpu_percent(2)
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        "memory_mb": psutil.virtual_memory().total >> 20,
        "python": platform.python_version(),
        "cli": __cli_version__,
        "busy_before_percent": busy,
        "load_before": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    main()
