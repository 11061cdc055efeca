"""How much of a request is looked at at all. What is inside the body is bounded where it is read."""

import re
from collections.abc import MutableMapping
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from vault.broker.problems import refusal
from vault.wire import SHARING_PATH, SUBMISSION_TYPE

__all__ = ["HEAD_BYTES", "Bounds"]

#: The head of a request: a token, a proof and three links of a delegation fit several times.
HEAD_BYTES: Final = 32 * 1024
_MOST_HEADERS: Final = 64
#: A ticket of a leased chunk is the longest part of an address.
_PATH_BYTES: Final = 4608
_QUERY_BYTES: Final = 1024
_BODY_BYTES: Final = 64 * 1024
#: What is asked for by POST, and with a body; elsewhere the method itself is refused, whatever the body is of.
_ASKED_AT: Final = re.compile(f"/v1/datasets/.*|{SHARING_PATH}shares/[^/]+/schemas/[^/]+/tables/[^/]+/query", re.DOTALL)
_BODY_TYPE: Final = "application/json"
#: What takes another body, and a longer one; what is in it is read in pieces.
_SUBMITTED_AT: Final = re.compile(r"/v1/datasets/[^/]+/submissions")


class Bounds:
    """ASGI middleware that refuses what is too long, too many, or of a length that is not said.

    ``most_submitted`` is how long the body of a submission may be.
    """

    def __init__(self, app: ASGIApp, most_submitted: int = _BODY_BYTES) -> None:
        self._app = app
        self._most_submitted = most_submitted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        status = _refused(scope, self._most_submitted) if scope["type"] == "http" else None
        if status is not None:
            # Where it ends is open to doubt, and what comes behind it may be another's (RFC 9112 section 6.1).
            await refusal(status, {"Connection": "close"}, scope["path"])(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _refused(scope: MutableMapping[str, Any], most_submitted: int) -> int | None:
    """The status that a request is refused with before anything in it is read; None where it is not."""
    if scope["http_version"] not in {"1.0", "1.1"}:
        return 400
    if len(scope["raw_path"]) > _PATH_BYTES or len(scope["query_string"]) > _QUERY_BYTES:
        return 414
    pairs = scope["headers"]
    if len(pairs) > _MOST_HEADERS or sum(len(name) + len(value) + 4 for name, value in pairs) > HEAD_BYTES:
        return 431
    headers = Headers(scope=scope)
    hosts = headers.getlist("host")
    if len(hosts) > 1 or not (hosts or scope["http_version"] == "1.0"):
        return 400  # RFC 9112 section 3.2
    lengths = headers.getlist("content-length")
    if "transfer-encoding" in headers or len(lengths) > 1 or not all(_is_number(each) for each in lengths):
        return 411
    asked = scope["method"] == "POST" and _ASKED_AT.fullmatch(scope["path"]) is not None
    submitted = asked and _SUBMITTED_AT.fullmatch(scope["path"]) is not None
    if lengths and int(lengths[0]) > (most_submitted if submitted else _BODY_BYTES):
        return 413
    if asked and not _is_of(headers.getlist("content-type"), SUBMISSION_TYPE if submitted else _BODY_TYPE):
        return 415
    return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def _is_of(types: list[str], wanted: str) -> bool:
    return len(types) == 1 and types[0].partition(";")[0].strip().lower() == wanted
