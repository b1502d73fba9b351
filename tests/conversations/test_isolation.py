"""What is red, and that the page and the command say the same of it."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone

from conversations.isolation import is_red, reports
from conversations.models import RunnerHost
from tests.cast import House
from tests.conversations.stage import live_host

HOLDS = {"name": "network", "holds": True, "lacked": False, "detail": ""}
FAILS = {"name": "mount", "holds": False, "lacked": False, "detail": "it can mount <b>"}
LACKED = {"name": "own uid", "holds": False, "lacked": True, "detail": "it runs under the runner's own uid"}


@pytest.fixture(autouse=True)
def no_host(database: None) -> Iterator[None]:
    RunnerHost.objects.all().delete()
    yield
    RunnerHost.objects.all().delete()


def probed(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    """Status and output of `manage.py isolation_probe`."""
    with pytest.raises(SystemExit) as left:
        call_command("isolation_probe", *options)
    return int(left.value.code or 0), capsys.readouterr().out


def test_all_is_well_where_each_probe_holds_or_is_not_promised(capsys: pytest.CaptureFixture[str]) -> None:
    name = live_host("bubblewrap", findings=(HOLDS, LACKED))
    (report,) = reports()
    assert [probe.state for probe in report.probes] == ["holds", "lacked"]
    assert not is_red([report])
    status, said = probed(capsys)
    assert status == 0
    assert f"{name}: bubblewrap\n" in said
    assert "ok    network" in said
    told = json.loads(probed(capsys, "--json")[1])
    assert (told["red"], told["hosts"][0]["host"], told["hosts"][0]["tier"]) == (False, name, "bubblewrap")


@pytest.mark.parametrize(
    ("flaw", "problem"),
    [
        ({"findings": (HOLDS, FAILS)}, "fails: mount"),
        ({"findings": (HOLDS,), "proof_age": timedelta(minutes=26)}, "its proof is too old"),
        ({"findings": (HOLDS,), "refuses": "mount: it can mount"}, "takes no turns: mount: it can mount"),
        ({"findings": (LACKED,), "tier": "none"}, "has no sandbox"),
    ],
    ids=["fails", "old", "refuses", "none"],
)
def test_each_flaw_makes_it_red(
    flaw: dict[str, Any], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    live_host(**{"tier": "bubblewrap"} | flaw)
    (report,) = reports()
    assert problem in report.problems
    status, said = probed(capsys)
    assert status == 1
    assert problem in said
    assert json.loads(probed(capsys, "--json")[1])["red"] is True


def test_a_silent_host_is_red_and_so_is_none_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert probed(capsys)[0] == 1
    name = live_host(findings=(HOLDS,))
    assert not is_red(reports())
    RunnerHost.objects.filter(name=name).update(seen_at=timezone.now() - timedelta(minutes=1))
    assert reports()[0].problems == ["not heard of since it last spoke"]


def test_the_page_shows_each_host_and_probe_in_words(house: House) -> None:
    house.owner.user.is_staff = True
    house.owner.user.save()
    good, bad = live_host(findings=(HOLDS,)), live_host("bubblewrap", findings=(HOLDS, FAILS, LACKED))
    page = house.owner.client.get("/admin/conversations/runnerhost/").text
    assert good in page
    assert bad in page
    assert "it can mount &lt;b&gt;" in page
    assert "Something is wrong" in page
    assert page.count('data-state="lacked"') == 1
    RunnerHost.objects.filter(name=bad).delete()
    assert (
        "Every host has proved its walls" in house.owner.client.get("/admin/conversations/runnerhost/").text
    )


def test_a_host_is_forgotten_only_once_it_is_silent(house: House) -> None:
    house.owner.user.is_staff = True
    house.owner.user.save()
    name = live_host(findings=(HOLDS,))
    forget = f"/admin/conversations/runnerhost/{name}/delete/"
    assert house.owner.client.post(forget, {"post": "yes"}).status_code == 403
    RunnerHost.objects.filter(name=name).update(seen_at=timezone.now() - timedelta(minutes=1))
    house.owner.client.post(forget, {"post": "yes"})
    assert not RunnerHost.objects.filter(name=name).exists()


@pytest.mark.needs_bubblewrap
def test_this_machine_is_probed_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = probed(capsys, "--here", "--json")
    told = json.loads(said)
    (here,) = told["hosts"]
    assert here["host"] == "this machine"
    assert {"name": "network", "state": "holds", "detail": ""} in here["probes"]
    assert (status, told["red"]) == (0, False)
    assert not RunnerHost.objects.exists()
