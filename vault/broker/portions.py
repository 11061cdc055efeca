"""Large answers over TLS in portions, each of which waits until the one before it was taken.

A transport has no bound on what it takes at once, and under TLS it does not say how much of that is on its way. So what
is written at once is bounded there: a client that takes nothing holds little of an answer in the broker, and the time
in which it has to take something begins. Without TLS the transport says so itself.
"""

from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Portions"]

_BYTES: Final = 256 << 10


class Portions:
    """ASGI middleware that sends no more than so many bytes at once over TLS."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope.get("scheme") != "https":
            await self._app(scope, receive, send)
            return

        async def portioned(message: Message) -> None:
            body: Any = message.get("body", b"")
            if len(body) <= _BYTES:
                await send(message)
                return
            whole = memoryview(body)
            for at in range(0, len(whole), _BYTES):
                more = at + _BYTES < len(whole) or message.get("more_body", False)
                await send({**message, "body": whole[at : at + _BYTES], "more_body": more})

        await self._app(scope, receive, portioned)
