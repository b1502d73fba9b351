"""The documents name every setting that the code reads, and no other."""

import ast
import re
from pathlib import Path

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
