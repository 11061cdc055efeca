"""The routes that deliver, without what a framework does for any route.

One thread authenticates, reads the body and answers, so that a small read goes from the loop to a thread and back once;
and nobody is told what is wrong with a body who did not say who asks. What a route takes is declared as for every
other, and published so.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from vault.access import Arrival

__all__ = ["lean_route"]


def lean_route(
    arrival: Callable[[Request], Arrival], turn_away: Callable[[Arrival], object], model: type[BaseModel]
) -> type[APIRoute]:
    """A kind of route whose endpoint takes the request, the ``name`` in its path, its body, and who asks.

    ``turn_away`` is told of whoever sent a body that is not valid.
    """

    class Lean(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
            def answer(request: Request, data: bytes) -> Response:
                who = arrival(request)
                request.state.caller = who.caller
                try:
                    body = _read(model, request, data)
                except RequestValidationError:
                    turn_away(who)
                    raise
                answered: Response = self.endpoint(request, request.path_params["name"], body, who)
                return answered

            async def handle(request: Request) -> Response:
                return await run_in_threadpool(answer, request, await request.body())

            return handle

    return Lean


def _read(model: type[BaseModel], request: Request, data: bytes) -> Any:
    """The body of a request; raises RequestValidationError as a route of the framework's own does."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise RequestValidationError([{"loc": ("body",)}])
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{"loc": ("body", *each["loc"])} for each in found]) from None
