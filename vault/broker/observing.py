"""What surrounds every request: an id, the time it took, a count and a line in the log."""

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from vault.broker import problems
from vault.broker.logs import request_id
from vault.broker.metrics import Metrics
from vault.encoding import new_id
from vault.errors import VaultError

__all__ = ["Observing"]

_LOG = logging.getLogger("dsvault.requests")
_Scope = MutableMapping[str, Any]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Observing:
    """ASGI middleware; the id is its own, never the client's, and goes out as ``X-Request-Id``.

    When the request came is left in its state, as ``began``.
    """

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: _Scope, receive: Any, send: _Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, began, status = new_id(), time.perf_counter(), 0
        scope.setdefault("state", {})["began"] = began

        async def observed(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request.encode())]
                self._metrics.answered(_route(scope), status, time.perf_counter() - began)
            await send(message)

        # Whatever is logged on the way, in this task or a thread that works for it, carries the id. It is not taken
        # back: the task is this request's alone, and the server may have something to log about its end.
        request_id.set(request)
        try:
            await self._app(scope, receive, observed)
        except Exception as error:
            # The traceback stays out of the answer, and the message out of the log: it may quote what was read.
            _LOG.error("unexpected %s", type(error).__name__)
            if status:
                raise  # the answer has begun: that it ends here is all that can be said
            self._metrics.refused("error")
            await problems.answer(VaultError("unexpected"), scope["path"])(scope, receive, observed)
        finally:
            caller = scope.get("state", {}).get("caller")
            about = {"vendor": caller.vendor, "credential": caller.credential} if caller is not None else {}
            seconds = round(time.perf_counter() - began, 6)
            details = {"method": scope["method"], "route": _route(scope), "status": status}
            _LOG.info("answered", extra={**details, "seconds": seconds, **about})


def _route(scope: _Scope) -> str:
    """The route's pattern: paths hold names, and there are any number of them."""
    return getattr(scope.get("route"), "path", "other")
