"""Asking a web process whether it is ready."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

PAUSE = 0.1


def ask(url: str) -> tuple[int, dict[str, Any]]:
    """Status and body of `url`/ready; (0, {}) where nobody answers yet."""
    try:
        with _direct.open(f"{url}/ready", timeout=5) as answer:
            return answer.status, _body(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, _body(error.read())
    except OSError:
        return 0, {}


def wait_until_ready(url: str, seconds: float, go_on: Callable[[], bool]) -> tuple[int, dict[str, Any]]:
    """Ask until the answer is 200, `seconds` are over, or `go_on()` is false; give the last answer."""
    until = time.monotonic() + seconds
    while True:
        status, body = ask(url)
        if status == 200 or time.monotonic() > until or not go_on():
            return status, body
        time.sleep(PAUSE)


# A proxy of the environment has no business between us and our own process.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _body(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
