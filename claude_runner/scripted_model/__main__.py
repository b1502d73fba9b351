"""`python -m claude_runner.scripted_model`: serves until SIGINT or SIGTERM."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from claude_runner.scripted_model.server import ScriptedModel


def main() -> None:
    parser = argparse.ArgumentParser(prog="claude_runner.scripted_model", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="0 takes a free port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port-file", type=Path, help="the port is written here once the server listens")
    given = parser.parse_args()
    asyncio.run(serve(given.host, given.port, given.port_file))


async def serve(host: str, port: int, port_file: Path | None) -> None:
    """Serves until the process is told to stop; keeps no requests."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with ScriptedModel(host, port, keep=0) as model:
        if port_file is not None:
            _write_whole(port_file, f"{model.port}\n")
        sys.stderr.write(f"Offline scripted model at {model.url}\n")
        await stopped.wait()


def _write_whole(path: Path, text: str) -> None:
    """A reader sees nothing or all of it."""
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(text)
    draft.replace(path)


if __name__ == "__main__":
    main()
