"""Files of the tree, over the asynchronous stack as in operation."""

import threading

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.test import AsyncClient

from config.static_files import StaticFilesMiddleware


async def test_a_file_comes_whole_with_its_type() -> None:
    answer = await AsyncClient().get("/static/css/base.css")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/css")
    assert answer.content == (settings.BASE_DIR / "static" / "css" / "base.css").read_bytes()


async def test_a_file_that_the_browser_has_is_not_sent_again() -> None:
    first = await AsyncClient().get("/static/css/base.css")
    again = await AsyncClient().get(
        "/static/css/base.css", headers={"if-modified-since": first.headers["last-modified"]}
    )
    assert again.status_code == 304
    assert again.content == b""


async def test_nothing_outside_the_folder_is_served() -> None:
    for path in ("/static/../manage.py", "/static/%2e%2e/manage.py", "/static/css/"):
        assert (await AsyncClient().get(path)).status_code == 404


async def test_a_view_stays_on_the_event_loop() -> None:
    async def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(threading.current_thread().name)

    request = HttpRequest()
    request.path_info = "/anything"
    answer = StaticFilesMiddleware(view)(request)
    assert not isinstance(answer, HttpResponseBase)
    answered = await answer
    assert isinstance(answered, HttpResponse)
    assert answered.content.decode() == threading.current_thread().name
