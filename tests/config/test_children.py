"""Children that behave, and children that don't."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from config.children import Child, Step, free_port, is_free
from config.embedded import EmbeddedServers
from config.supervisor import MOST_DEATHS, GaveUp, Kept, Stop, Supervisor

SLEEPS = "import time; print('up', flush=True); time.sleep(60)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}"
HAS_A_CHILD = (
    "import subprocess, time; child = subprocess.Popen(['/bin/sleep', '60'], start_new_session=True); "
    "print(child.pid, flush=True); time.sleep(60)"
)


def python(code: str, seconds: float = 5) -> Child:
    return Child(
        name="child",
        argv=[sys.executable, "-c", code],
        env={},
        cwd=Path("/"),
        output=subprocess.PIPE,
        ladder=(Step(signal.SIGTERM, seconds),),
    )


@contextmanager
def started(child: Child) -> Iterator[str]:
    """Start it, give its first line, end it."""
    child.start()
    assert child.process and child.process.stdout
    with child.process.stdout as output:
        yield output.readline().decode().strip()
        child.stop()


def wait_until(condition: Callable[[], object], seconds: float = 5) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def test_a_child_ends_on_its_signal() -> None:
    child = python(SLEEPS)
    with started(child) as line:
        assert line == "up"
        child.stop()
        assert child.exit_code == -signal.SIGTERM


def test_a_deaf_child_is_killed_after_its_time() -> None:
    child = python(DEAF, seconds=0.3)
    with started(child):
        begun = time.monotonic()
        child.stop()
        assert child.exit_code == -signal.SIGKILL
        assert 0.3 <= time.monotonic() - begun < 3


def test_a_hurry_cuts_the_wait_short() -> None:
    child = python(DEAF, seconds=60)
    hurry = threading.Event()
    with started(child):
        begun = time.monotonic()
        threading.Timer(0.2, hurry.set).start()
        child.stop(hurry)
        assert child.exit_code == -signal.SIGKILL
        assert time.monotonic() - begun < 3


def test_what_a_child_started_ends_with_it() -> None:
    with started(python(HAS_A_CHILD)) as line:
        grandchild = psutil.Process(int(line))
    assert psutil.wait_procs([grandchild], timeout=3)[1] == []


def test_a_child_gets_only_the_environment_it_is_given() -> None:
    with started(python("import os; print(sorted(set(os.environ) - {'LC_CTYPE'}))")) as line:
        assert line == "[]"


def test_a_child_leads_its_own_session() -> None:
    with started(python("import os; print(os.getsid(0) == os.getpid())")) as line:
        assert line == "True"


def test_a_child_dies_with_its_parent() -> None:
    code = (
        "import sys, time; from pathlib import Path; from config.children import Child; "
        "child = Child('deaf', [sys.executable, '-c', 'import time; time.sleep(60)'], {}, Path('/')); "
        "child.start(); print(child.process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    assert psutil.wait_procs([child], timeout=3)[1] == []


def test_a_port_that_is_taken_is_told_and_avoided() -> None:
    port = free_port()
    assert is_free("127.0.0.1", port)
    assert free_port(port) == port
    with started(python(f"import socket; taken = socket.create_server(('127.0.0.1', {port})); {SLEEPS}")):
        assert not is_free("127.0.0.1", port)
        assert free_port(port) != port


def test_a_dead_child_comes_back_and_its_words_are_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    kept = Kept(python("print('hello'); raise SystemExit(3)"))
    kept.start()
    first = kept.child.process
    assert first
    wait_until(lambda: not kept.child.alive)
    kept.look()
    assert kept.due
    kept.due = time.monotonic()
    kept.look()
    assert kept.child.process is not first
    kept.end(threading.Event())
    printed = capfd.readouterr().out
    assert "child | hello" in printed
    assert "ended with exit code 3; starting again in 1 s" in printed


def test_a_child_that_dies_again_and_again_is_given_up() -> None:
    kept = Kept(python("raise SystemExit(1)"))
    kept.start()
    for _ in range(MOST_DEATHS - 1):
        wait_until(lambda: not kept.child.alive)
        kept.look()
        kept.due = time.monotonic()
        kept.look()
    wait_until(lambda: not kept.child.alive)
    with pytest.raises(GaveUp, match=f"child ended {MOST_DEATHS} times in a row"):
        kept.look()


def test_children_end_in_the_reverse_of_their_order(tmp_path: Path) -> None:
    supervisor = Supervisor(EmbeddedServers(tmp_path), Stop())
    ended = tmp_path / "ended"
    for name in ("first", "second"):
        code = (
            "import signal, sys, time\n"
            "def end(*_):\n"
            f"    open({str(ended)!r}, 'a').write('{name} ')\n"
            "    sys.exit()\n"
            "signal.signal(signal.SIGTERM, end)\n"
            f"open({str(tmp_path / name)!r}, 'w')\n"
            "time.sleep(60)\n"
        )
        supervisor.start(python(code))
        wait_until((tmp_path / name).exists)
    supervisor.end()
    assert ended.read_text() == "second first "


def test_two_signals_at_once_are_one_wish_and_a_later_one_is_a_hurry() -> None:
    stop = Stop()
    with stop.on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wanted.is_set()
        assert not stop.hurry.is_set()
        stop.since -= 2
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.hurry.is_set()
