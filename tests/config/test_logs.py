"""What a line of the log never has: a second line, a secret."""

import logging

import pytest

from config.logs import Line

LINE = Line(secrets=["the-database-password", ""])


def line_of(message: str, *arguments: object, error: BaseException | None = None) -> str:
    info = (type(error), error, error.__traceback__) if error else None
    return LINE.format(logging.LogRecord("parley.x", logging.ERROR, "", 0, message, arguments, info))


@pytest.mark.parametrize(
    "forged",
    [
        "\nERROR parley: all is well",
        "\r\nERROR x",
        "\x1b[2J\x1b]0;x\x07",
        "\x85ERROR",
        "\u2028ERROR",
        "\u202egnp.exe",
        "\0",
    ],
)
def test_t23_nothing_ends_a_line_or_moves_a_cursor(forged: str) -> None:
    line = line_of("asked for %s", forged)
    assert line.startswith("ERROR parley.x: asked for ")
    assert len(line.splitlines()) == 1
    assert line.isprintable()


def test_t23_a_traceback_is_part_of_its_line() -> None:
    try:
        raise ValueError("first\nERROR parley: forged")
    except ValueError as error:
        line = line_of("it failed", error=error)
    assert len(line.splitlines()) == 1
    assert "Traceback" in line and "ValueError" in line


@pytest.mark.parametrize(
    "said",
    [
        "parley_ab12cd34_CANARYCANARY", "sk-ant-api03-CANARYCANARY", "Authorization: Bearer CANARYCANARY",
        "authorization: Basic CANARYCANARY", '{"secret": "CANARY"}', "{'x-api-key': 'CANARY'}",
        "password=CANARY&a=b",
        "cookie: __Host-session=CANARY", "(b'x-api-key', b'CANARY')", "redis://:CANARY@127.0.0.1:1/0",
        "postgres://user:CANARY@db/x", "GET /invitation/CANARYCANARY/", "refused: the-database-password",
        "/accounts/password/reset/key/1-CANARY/",
    ],
)  # fmt: skip
def test_t23_what_looks_like_a_secret_is_not_written(said: str) -> None:
    line = line_of("%s", said)
    assert "CANARY" not in line and "the-database" not in line
    assert "…" in line


def test_t23_plain_words_stay() -> None:
    said = "the token bucket of 3 sockets, basic tier, secret of nobody, 12 tokens; sk-1"
    assert line_of(said) == f"ERROR parley.x: {said}"
