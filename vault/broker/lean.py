"""The routes that deliver, without what a framework does for any route.

One thread authenticates, reads the body and answers, so that a small read goes from the loop to a thread and back once;
and nobody is told what is wrong with a body who did not say who asks. Whoever's vendor has its share of the threads
already waits for one before the body is looked at. What a route takes is declared as for every other, and published so.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from vault.access import Arrival
from vault.broker.shares import LONGEST_WAIT, Shares
from vault.errors import Unavailable

__all__ = ["lean_route"]


def lean_route(
    arrival: Callable[[Request], Arrival],
    turn_away: Callable[[Arrival], object],
    model: type[BaseModel],
    shares: Shares,
) -> type[APIRoute]:
    """A kind of route whose endpoint takes the request, what is in its path, its ``body``, and ``who`` asks.

    ``turn_away`` is told of whoever sent a body that is not valid.
    """

    class Lean(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
            def begin(request: Request, data: bytes) -> Response | Arrival:
                who = arrival(request)
                request.state.caller = who.caller
                if not shares.take_now(who.caller.vendor):
                    return who
                try:
                    return answer(request, data, who)
                finally:
                    shares.give(who.caller.vendor)

            def answer(request: Request, data: bytes, who: Arrival) -> Response:
                try:
                    body = _read(model, request, data)
                except RequestValidationError:
                    turn_away(who)
                    raise
                answered: Response = self.endpoint(request, body=body, who=who, **request.path_params)
                return answered

            async def wait(request: Request, data: bytes, who: Arrival) -> Response:
                try:
                    await shares.take(who.caller.vendor, LONGEST_WAIT)
                except Unavailable:
                    await run_in_threadpool(turn_away, who)
                    raise
                try:
                    return await run_in_threadpool(answer, request, data, who)
                finally:
                    shares.give(who.caller.vendor)

            async def handle(request: Request) -> Response:
                data = await request.body()
                found = await run_in_threadpool(begin, request, data)
                return found if isinstance(found, Response) else await wait(request, data, found)

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
