"""Answers that are not what was asked for: problem documents (RFC 9457), whatever was wrong.

An answer says what the caller sent or may know, and nothing else: no trace, no path, no text of another library's.
"""

import json
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from anyio import sleep
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from vault import wire
from vault.errors import Abandoned, InvalidInput, LimitReached, Unauthenticated, VaultError

__all__ = ["CHALLENGE", "answer", "document", "install", "refusal"]

_LOG = logging.getLogger("dsvault.broker")
#: RFC 9449 section 7.1; a credential is taken in the way that it was made for and no other.
CHALLENGE: Final = 'DPoP algs="EdDSA Ed25519 ES256", Bearer'
#: What is refused for who asks is answered at a multiple of so many seconds after it came: see `_evened`.
_EVEN_SECONDS: Final = 0.02
_LOOP_SECONDS: Final = 0.001
_NOT_KEPT: Final = {"Cache-Control": "no-store"}

# What HTTP itself has a status for: the kind, and a sentence that names nothing.
_REFUSALS: Final[Mapping[int, tuple[str, str]]] = {
    404: ("not-found", "there is no such page"),
    405: ("invalid", "the method is not one that this address takes"),
    408: ("timeout", "the request did not come in time"),
    411: ("invalid", "the length of the request's body has to be said"),
    413: ("invalid", "the request's body is too long"),
    414: ("invalid", "the address is too long"),
    415: ("invalid", "the request's body has to be of the type that is taken here, which mostly is application/json"),
    416: ("invalid", "the object has no such range"),
    431: ("invalid", "the request's headers are too many or too long"),
    503: ("unavailable", "the broker can take no more requests at present"),
}


def document(status: int) -> tuple[int, bytes]:
    """The status and the problem document of a refusal that HTTP has a status for; any other is a 400."""
    if status not in _REFUSALS:
        status, (kind, detail) = 400, ("invalid", "the request is not valid HTTP or not valid JSON")
    else:
        kind, detail = _REFUSALS[status]
    return status, _encoded(wire.problem_document(kind, detail))


def refusal(status: int, headers: Mapping[str, str] | None = None, path: str = "") -> Response:
    """The same as an answer, in the form that is spoken below a path."""
    status, data = document(status)
    return _answer(status, json.loads(data), headers or {}, path)


def answer(error: VaultError, path: str = "") -> Response:
    """The answer that an error stands for, in the form that is spoken below a path."""
    status, found = wire.problem(error)
    if path.startswith(wire.SHARING_PATH) and isinstance(error, LimitReached):
        # Its clients take a 429 for "ask again soon", and ask for minutes.
        status = 403
    return _answer(status, found, {"WWW-Authenticate": CHALLENGE} if status == 401 else {}, path)


def _answer(status: int, found: Mapping[str, Any], headers: Mapping[str, str], path: str) -> Response:
    media_type = wire.PROBLEM_TYPE
    if path.startswith(wire.SHARING_PATH):
        code = wire.kind_of(found).replace("-", "_").upper()
        found, media_type = {"errorCode": code, "message": found["detail"]}, "application/json"
    return Response(_encoded(found), status, headers={**_NOT_KEPT, **headers}, media_type=media_type)


def _encoded(found: Mapping[str, Any]) -> bytes:
    # In ASCII: nothing that a caller sent and is told of can fail to be encoded.
    return json.dumps(found).encode("ascii")


def install(app: FastAPI) -> None:
    """Let every error of an application be answered here."""
    app.add_exception_handler(VaultError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, VaultError)
    path = request.scope["path"]
    if isinstance(error, Abandoned):
        return answer(error)  # to nobody: it is no trouble of the broker's
    status, found = wire.problem(error)
    request.app.state.metrics.refused(wire.kind_of(found))
    if status >= 500:
        _LOG.error("%s: %s", type(error).__name__, error)
    if isinstance(error, Unauthenticated) or path.startswith((wire.OBJECTS_PATH, wire.FILES_PATH)):
        await _evened(request)
    return answer(error, path)


async def _evened(request: Request) -> None:
    """Wait until the time of the answer says nothing of how far the request came.

    A credential or an address that exists is looked into, and the attempt written down, durably; for one that does not
    there is nothing to look into, and to write it down would let anybody fill the log. Nothing but the
    connection is held meanwhile, and a thread at the very end.
    """
    took = time.perf_counter() - request.state.began
    due = time.perf_counter() + _EVEN_SECONDS - took % _EVEN_SECONDS
    # The event loop wakes up at whole milliseconds from when it fell asleep, which is a trace of how long that was.
    await sleep(max(0.0, due - time.perf_counter() - 2 * _LOOP_SECONDS))
    await run_in_threadpool(time.sleep, max(0.0, due - time.perf_counter()))


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fields = sorted({".".join(str(part) for part in item["loc"][1:2]) or "body" for item in error.errors()})
    return answer(InvalidInput(f"the request is not valid: {', '.join(fields)[:200]}"), request.scope["path"])


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = {"Allow": ", ".join(_methods(request))} if error.status_code == 405 else None
    return refusal(error.status_code, headers, request.scope["path"])


def _methods(request: Request) -> list[str]:
    """What an address takes; an address may be several routes, of which the framework names the first."""
    routes = (each for each in request.app.routes if each.matches(request.scope)[0] is Match.PARTIAL)
    return sorted({method for each in routes for method in each.methods})
