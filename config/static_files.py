"""Style sheets, scripts and pictures, straight from the tree."""

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction, markcoroutinefunction

from asgiref.sync import sync_to_async
from django.http import FileResponse, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from whitenoise.middleware import WhiteNoiseMiddleware  # type: ignore[import-untyped]

type Answer = HttpResponseBase | Awaitable[HttpResponseBase]


class StaticFilesMiddleware(WhiteNoiseMiddleware):  # type: ignore[misc]  # WhiteNoise is untyped
    """WhiteNoise in both worlds.

    By itself it knows the synchronous one only, and then every other request holds a thread while its view
    waits: for a whole turn, where a program asks for the answer in one piece.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Answer]) -> None:
        super().__init__(get_response)
        self.waits = iscoroutinefunction(get_response)
        if self.waits:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Answer:
        answer: Answer = super().__call__(request)
        return _read(answer) if self.waits and isinstance(answer, FileResponse) else answer


async def _read(file: FileResponse) -> HttpResponse:
    """The file as one answer: Django warns of each file that it streams from an event loop."""
    content = await sync_to_async(file.getvalue, thread_sensitive=False)()
    file.close()
    return HttpResponse(content, status=file.status_code, headers=file.headers)
