"""What an agent leaves in its folders goes, whatever it is, and nobody waits for that but its own conversation."""

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from uuid import UUID, uuid4

import pytest
from claude_agent_sdk import InMemorySessionStore

from claude_runner import RunnerSettings
from claude_runner.folders import Folders, Place
from claude_runner.transcript import PROJECT_KEY, restore

PROJECT = Path(__file__).parents[2]
DIG = """
import os, sys
os.chdir(sys.argv[1])
for _ in range(3000):
    os.mkdir("d")
    os.chdir("d")
"""
# An ordinary user's runner, and what its agent does to the folder that the next process would start from.
ORDINARY = """
import os, sys
from pathlib import Path
from claude_runner.folders import Folders
from claude_runner.spec import RunnerSettings
if os.geteuid() == 0:
    os.setgroups([]); os.setresgid(54321, 54321, 54321); os.setresuid(54321, 54321, 54321)
place = Folders(RunnerSettings(Path(sys.argv[1]))).place(sys.argv[2])
place.fresh_config()
"""
CLOSED = """
(place.config / "settings.json").write_text("{}")
(place.config / "skills/evil").mkdir(parents=True)
(place.config / "skills").chmod(0)
(place.config).chmod(0o500)
place.fresh_config()
print(os.listdir(place.config), oct(place.config.stat().st_mode & 0o777))
"""


def ordinary(folder: Path, conversation: str, script: str = "") -> subprocess.CompletedProcess[str]:
    folder.chmod(0o777)
    return subprocess.run(
        [sys.executable, "-c", ORDINARY + script, str(folder / "s"), conversation],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.defpath, "PYTHONPATH": str(PROJECT)},
    )


@pytest.fixture
def folders(new_sandbox_dir: Callable[[], Path]) -> Folders:
    return Folders(RunnerSettings(new_sandbox_dir()))


@pytest.fixture
def place(folders: Folders) -> Place:
    return folders.place(str(uuid4()))


def test_a_folder_that_is_none_of_ours_is_left_alone(folders: Folders, place: Place) -> None:
    stray = place.folder.parent / "lost+found"
    stray.mkdir()
    assert folders.kept() == [UUID(place.folder.name)]
    assert stray.exists()


def test_folders_deeper_than_open_files_go(folders: Folders, place: Place) -> None:
    place.fresh_config()
    for folder in (place.config, place.workspace):
        subprocess.run([sys.executable, "-c", DIG, str(folder)], check=True)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        place.fresh_config()
        assert os.listdir(place.config) == []
        folders.forget(place.folder.name)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert folders.kept() == []


def test_nothing_of_a_closed_configuration_is_in_the_next(new_sandbox_dir: Callable[[], Path]) -> None:
    done = ordinary(new_sandbox_dir(), str(uuid4()), CLOSED)
    assert done.stdout.strip() == "[] 0o700", done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what an ordinary user can't delete")
def test_a_configuration_that_can_not_be_emptied_is_not_started_from(
    new_sandbox_dir: Callable[[], Path],
) -> None:
    folder, conversation = new_sandbox_dir(), str(uuid4())
    assert ordinary(folder, conversation).returncode == 0
    foreign = folder / "s/c" / conversation / "config/foreign"
    foreign.mkdir()
    (foreign / "settings.json").touch()
    done = ordinary(folder, conversation)
    assert done.returncode == 1
    assert "could not be deleted" in done.stderr


def test_a_link_in_place_of_the_configuration_is_not_followed(
    place: Place, new_sandbox_dir: Callable[[], Path]
) -> None:
    outside = new_sandbox_dir()
    (outside / "kept").touch()
    place.config.symlink_to(outside)
    place.fresh_config()
    assert not place.config.is_symlink()
    assert os.listdir(outside) == ["kept"]


async def test_nobody_else_waits_while_much_is_deleted_and_written(place: Place) -> None:
    place.fresh_config()
    for number in range(40_000):
        (place.config / str(number)).touch()
    store, session = InMemorySessionStore(), str(uuid4())
    text = {"role": "user", "content": "é\n" * 250_000}
    key = {"project_key": PROJECT_KEY, "session_id": session}
    await store.append(key, [{"type": "user", "uuid": str(n), "message": text} for n in range(60)])  # type: ignore[arg-type, typeddict-unknown-key]
    longest = 0.0
    restoring = asyncio.create_task(restore(store, session, place, place.workspace))
    while not restoring.done():
        began = monotonic()
        await asyncio.sleep(0.01)
        longest = max(longest, monotonic() - began)
    assert (await restoring).found
    [written] = place.config.rglob("*.jsonl")
    assert written.stat().st_size > 60 * 500_000
    assert longest < 0.5
