"""The documents name every setting, call, frame, event and crossing function that the code has, and no other."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any, get_args

from django.db.migrations.loader import MigrationLoader

from claude_runner import events
from config.api import api
from conversations.consumers import ChatConsumer
from tenants.rls import CrossingFunction
from tenants.roles import RIGHTS

ROOT = Path(__file__).resolve().parents[2]


def settings_read() -> set[str]:
    """The names that config/settings.py asks `env` for."""
    tree = ast.parse((ROOT / "config/settings.py").read_text())
    return {
        call.args[0].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "env"
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    }


def test_the_settings_are_found() -> None:
    assert {"DATA_DIR", "PORT", "DATABASE_URL", "MASTER_KEY"} <= settings_read()


def test_env_example_names_every_setting_read() -> None:
    written = re.findall(r"^#?([A-Z][A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert set(written) == settings_read()
    assert len(written) == len(set(written))


def test_the_operating_manual_has_a_row_for_every_setting_read() -> None:
    rows = re.findall(r"^\| `([A-Z][A-Z_]+)` \|", (ROOT / "docs/operating.md").read_text(), re.MULTILINE)
    assert set(rows) == settings_read()


def test_nothing_but_the_settings_reads_the_environment_for_settings() -> None:
    reading = re.compile(r"environ\[|environ\.get\(|getenv\(")
    rooms = ("config", "tenants", "conversations", "claude_runner")
    found = {
        str(path.relative_to(ROOT))
        for room in rooms
        for path in (ROOT / room).rglob("*.py")
        if reading.search(path.read_text())
    }
    assert found <= {"config/readers.py"}, "read it in config/settings.py"


def test_the_readme_links_to_files_that_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


# docs/api.md ----------------------------------------------------------------------------------------------------


def rows_of(document: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    text = (ROOT / document).read_text()
    _before, _heading, section = text.partition(f"\n{heading}\n")
    assert section, f"{document} has no {heading}"
    section = re.split(r"\n#+ ", section)[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def calls_of_the_api() -> set[str]:
    """Every method and path below /v1, as documents write them."""
    return {
        f"{method} /v1{re.sub(r'{[^}]+}', '{id}', path)}"
        for _prefix, router in api._routers
        for path, view in router.path_operations.items()
        for operation in view.operations
        for method in operation.methods
    }


def test_the_table_of_calls_has_every_call_of_the_api() -> None:
    written = [
        f"{method} {path.partition('?')[0]}"
        for call, *_rest in rows_of("docs/api.md", "## HTTP")
        for methods, path in re.findall(r"`([A-Z, ]+) (/[^`]*)`", call)
        for method in methods.split(", ")
    ]
    assert len(written) == len(set(written))
    assert {call for call in written if " /v1/" in call} == calls_of_the_api()


def test_the_table_of_rights_is_the_one_of_the_code() -> None:
    rows = rows_of("docs/api.md", "## Roles and scopes")
    assert rows == [[str(right.says), right.least.value, right.scope.value] for right in RIGHTS.values()]


def test_the_table_of_frames_has_every_command_of_the_socket() -> None:
    rows = rows_of("docs/api.md", "## WebSocket `/v1/chat/ws`")
    assert {re.split(r"[` ]", frame)[1] for frame, *_rest in rows} == set(ChatConsumer.commands)


def engine_events() -> dict[str, set[str]]:
    """The types of the engine's events with their fields."""
    kinds: list[Any] = [kind for _name, kind in inspect.getmembers(events, dataclasses.is_dataclass)]
    fields = {kind: {field.name for field in dataclasses.fields(kind)} for kind in kinds}
    ends = {f"turn.{outcome}": fields[events.TurnEnd] for outcome in get_args(events.Outcome.__value__)}
    return ends | {kind.type: fields[kind] for kind in kinds if kind is not events.TurnEnd}


def event_types() -> set[str]:
    """The types of all events that the code names: the engine's, those of the database functions, web's own."""
    named = re.compile(r"""["']((?:conversation|turn|text|thinking|tool|permission|files)\.[a-z]+)["']""")
    sources = [*(ROOT / "conversations").rglob("*.py"), *(ROOT / "conversations/sql").glob("*.sql")]
    found = {name for source in sources for name in named.findall(source.read_text())}
    return (found | set(engine_events()) | {"error"}) - {"conversation.events"}  # a nudge, seen by no client


def test_the_table_of_events_has_every_type() -> None:
    written = [kind.strip("`") for kind, *_rest in rows_of("docs/api.md", "## Events")]
    assert len(written) == len(set(written))
    assert set(written) == event_types()


def test_the_table_of_events_has_the_fields_of_what_the_engine_says() -> None:
    rows = {kind.strip("`"): " | ".join(rest) for kind, *rest in rows_of("docs/api.md", "## Events")}
    for same in ("turn.failed", "turn.interrupted"):
        rows[same] += rows["turn.completed"]
    tokens = set(events.Usage().tokens())
    missing = {
        f"{kind}.{field}"
        for kind, fields in engine_events().items()
        for field in fields - tokens - {"outcome", "error"}
        if not re.search(rf"`{field}[` ]", rows[kind])
    }
    assert missing == set()


# docs/design.md -------------------------------------------------------------------------------------------------


def test_the_table_of_functions_that_cross_tenants_has_every_one_that_was_migrated() -> None:
    rows = rows_of("docs/design.md", "### Functions that cross tenants")
    written = [name for names, *_rest in rows for name in re.findall(r"`(\w+)`", names)]
    migrated = {
        operation.name
        for migration in MigrationLoader(None).disk_migrations.values()
        for operation in migration.operations
        if isinstance(operation, CrossingFunction)
    }
    assert len(written) == len(set(written))
    assert set(written) == migrated
