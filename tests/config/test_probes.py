"""/health and /ready, each part missing in turn."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, override_settings
from django.utils import timezone

from conversations.hosts import Said, say_alive
from conversations.models import RunnerHost


@pytest.fixture(autouse=True)
def _no_hosts(database: None) -> Iterator[None]:
    RunnerHost.objects.all().delete()
    yield
    RunnerHost.objects.all().delete()


def ask(path: str) -> tuple[int, dict[str, object]]:
    answer = async_to_sync(AsyncClient().get)(path)
    return answer.status_code, answer.json()


def alive(cli_version: str = "2.1") -> str:
    name = f"host-{uuid4()}"
    say_alive(Said(name, "bubblewrap", "not started as root", cli_version))
    return name


def test_a_process_that_lives_says_so_without_anything_else() -> None:
    assert ask("/health") == (200, {"status": "ok"})


def test_ready_when_a_runner_with_a_cli_was_heard_of() -> None:
    alive()
    sandbox = {"tier": "bubblewrap", "reason": "not started as root"}
    assert ask("/ready") == (200, {"status": "ready", "sandbox": sandbox})


def test_a_runner_is_missing_after_fifteen_seconds_of_silence() -> None:
    assert ask("/ready") == (503, {"status": "unavailable", "missing": ["runner"]})
    RunnerHost.objects.filter(name=alive()).update(seen_at=timezone.now() - timedelta(seconds=16))
    assert ask("/ready") == (503, {"status": "unavailable", "missing": ["runner"]})


def test_a_runner_without_a_cli_is_not_enough() -> None:
    alive(cli_version="")
    assert ask("/ready") == (503, {"status": "unavailable", "missing": ["cli"]})


def test_runners_that_refuse_all_turns_are_not_enough() -> None:
    say_alive(Said("refusing", "bubblewrap", cli_version="2.1", refuses="network: it sees eth0"))
    assert ask("/ready") == (503, {"status": "unavailable", "missing": ["sandbox"]})
    alive()
    assert ask("/ready")[0] == 200


@override_settings(REDIS_URL="redis://127.0.0.1:1")
def test_redis_is_missing() -> None:
    alive()
    assert ask("/ready") == (503, {"status": "unavailable", "missing": ["redis"]})


def test_nothing_is_cached() -> None:
    answer = async_to_sync(AsyncClient().get)("/ready")
    assert "no-store" in answer.headers["cache-control"]
