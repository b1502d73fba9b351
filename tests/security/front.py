"""A browser that comes to a web process through a proxy which ends TLS, as people come in production."""

import re
from http.cookies import SimpleCookie
from typing import Any

import httpx

from tests.stack import Web

NAME = "parley.example"
PRODUCTION = {"PUBLIC_URL": f"https://{NAME}", "TRUSTED_PROXIES": "127.0.0.1"}
LOGIN = "/accounts/login/"


class Browser:
    """Keeps cookies, says where its forms come from. `address` is what the proxy says that it has."""

    def __init__(self, web: Web, address: str, *, forged: str = "") -> None:
        self.web = web
        self.proxy = {"x-forwarded-proto": "https", "x-forwarded-for": f"{forged}{address}"}
        self.cookies: dict[str, str] = {}
        self.set_cookie: list[str] = []

    def ask(self, method: str, path: str, data: Any = None, **headers: str) -> httpx.Response:
        """One request; redirects are not followed."""
        jar = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        own = {"host": NAME, "origin": f"https://{NAME}", "referer": f"https://{NAME}{path}", "cookie": jar}
        answer = httpx.request(
            method,
            self.web.url + path,
            data=None if isinstance(data, str) else data,
            content=data if isinstance(data, str) else None,
            headers=own | self.proxy | {name.replace("_", "-"): value for name, value in headers.items()},
            timeout=30,
            trust_env=False,
        )
        self.set_cookie += answer.headers.get_list("set-cookie")
        for line in answer.headers.get_list("set-cookie"):
            for name, morsel in SimpleCookie(line).items():
                self.cookies[name] = morsel.value
        return answer

    def sign_in(self, email: str, password: str, **headers: str) -> httpx.Response:
        return self.send(LOGIN, {"login": email, "password": password}, **headers)

    def send(self, path: str, fields: dict[str, str], **headers: str) -> httpx.Response:
        """Open the page of a form and send the form."""
        return self.ask(
            "POST", path, fields | {"csrfmiddlewaretoken": self.token(path, **headers)}, **headers
        )

    def token(self, path: str, **headers: str) -> str:
        page = self.ask("GET", path, **headers)
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
        assert found, (page.status_code, page.text[:500])
        return found[1]
