"""Runs inside the sandbox, started by the agent's Bash: calls the gateway itself and prints what came of it."""

import http.client
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from typing import Any

GATEWAY = os.environ.get("ANTHROPIC_UNIX_SOCKET", "")
STOLEN = "stolen-credential"
OWN_HEADERS = {
    "x-api-key": STOLEN,
    "authorization": f"Bearer {STOLEN}",
    "proxy-authorization": STOLEN,
    "cookie": STOLEN,
    "host": "other-host.example",
    "x-forwarded-host": "other-host.example",
    "x-claude-code-session-id": "another-session",
    "anthropic-beta": "mcp-client-2025-11-20,files-api-2025-04-14, code-execution-2025-08-25,interleaved-thinking",
    "x-made-up": STOLEN,
}
PATHS = (
    *("/", "/v1/files", "/v1/messages/batches", "/v1/messages/", "/v1/messages/../files", "//v1/messages"),
    *(
        "/v1/messages/%2e%2e/files",
        "/v1/organizations/me",
        "/api/oauth/token",
        "/V1/messages",
        "/v1/messages;x",
    ),
    *("http://169.254.169.254/latest/meta-data", "/v1/models/../files", "/v1/complete", "/v1/messages%00"),
)


class Way(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(GATEWAY)


def body(model: str = "claude-haiku-5-5", prompt: str = "echo spent") -> bytes:
    messages = [{"role": "user", "content": prompt}]
    return json.dumps({"model": model, "max_tokens": 50, "messages": messages}).encode()


def ask(method: str, path: str, data: Any = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    way = Way("model.internal")
    try:
        way.request(method, path, data, headers or {}, encode_chunked=hasattr(data, "__next__"))
        answer = way.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, type(error).__name__
    finally:
        way.close()


def paths() -> Any:
    found = {f"{method} {path}": ask(method, path, body())[0] for path in PATHS for method in ("POST", "GET")}
    return found | {
        f"{method} /v1/messages": ask(method, "/v1/messages", body())[0] for method in ("PUT", "DELETE")
    }


def headers() -> Any:
    return ask("POST", "/v1/messages?beta=true&api_key=x&next=http://x", body(), OWN_HEADERS)


def models() -> Any:
    twice = body()[:-1] + b', "model": "claude-opus-5-5"}'
    other = body("claude-opus-5-5")[:-1] + b', "model": "claude-haiku-5-5"}'
    cased = body()[:-1] + b', "MODEL": "claude-opus-5-5"}'
    sent = [
        body("claude-opus-5-5"),
        body("CLAUDE-HAIKU-5-5"),
        twice,
        other,
        cased,
        b"[]",
        b"{",
        b'{"max_tokens": 5}',
    ]
    return [
        ask("POST", path, data) for data in sent for path in ("/v1/messages", "/v1/messages/count_tokens")
    ]


def huge() -> Any:
    endless = (b"x" * (1 << 20) for _ in range(60))
    announced = {"content-length": str(10 << 30)}
    return [
        ask("POST", "/v1/messages", b"x" * (40 << 20)),
        ask("POST", "/v1/messages", endless),
        ask("POST", "/v1/messages", b"x" * (40 << 20), announced),
    ]


def parts() -> Any:
    """Bodies that cost their reader seconds and a gigabyte, some of them hung up on at once."""
    costly = [body()[:-1] + b', "x": [' + part * 8_000_000 + b"1]}" for part in (b"[],", b"1,")]
    return [*(ask("POST", "/v1/messages", data) for data in costly), *(hang_up(data) for data in costly)]


def hang_up(data: bytes) -> tuple[int, str]:
    way = socket.socket(socket.AF_UNIX)
    way.connect(GATEWAY)
    way.sendall(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(data))
    try:
        way.sendall(data)
    except OSError as error:
        return 0, type(error).__name__
    finally:
        way.close()
    return 0, ""


def flood() -> Any:
    """As many requests as thirty threads make in four seconds, then five hundred connections that say nothing."""
    answers: Counter[int] = Counter()
    until = time.monotonic() + 4

    def insist() -> None:
        while time.monotonic() < until:
            answers[ask("POST", "/v1/messages", body())[0]] += 1

    threads = [threading.Thread(target=insist) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    silent = []
    for _ in range(500):
        way = socket.socket(socket.AF_UNIX)
        way.setblocking(False)
        try:
            way.connect(GATEWAY)
            silent.append(way)
        except OSError:
            break
    time.sleep(1)
    return {str(status): count for status, count in answers.items()}


def smuggle() -> Any:
    """A second request hidden in the body of the first."""
    hidden = b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
    both = b"content-length: %d\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\n" + both
    way = socket.socket(socket.AF_UNIX)
    way.settimeout(5)
    way.connect(GATEWAY)
    way.sendall(head % (len(hidden) + 5) + hidden)
    said = b""
    try:
        while part := way.recv(65536):
            said += part
    except OSError:
        pass
    return said.decode(errors="replace")


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))  # noqa: T201 (its output is what the agent sees)
