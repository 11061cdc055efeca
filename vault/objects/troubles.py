"""What goes wrong at a store, told apart by what is to be done about it, and trying again with an end.

Store packages raise what they like: errors of ``OSError``'s, of botocore's, of aiohttp's, of azure-core's. `told` makes
of each a FileNotFoundError, a FileExistsError, an EOFError, or a `Trouble`. Nothing of an error's own text is passed
on: it may hold an address with a signature in it, or a credential.
"""

import errno
import os
import random
import re
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar, final

__all__ = ["PATIENCE_SECONDS", "Trouble", "patiently", "told"]

#: For how long a request is tried again.
PATIENCE_SECONDS: Final = 20.0
_SHORT: Final = 10.0
_FIRST_WAIT: Final = 0.05
_LONGEST_WAIT: Final = 4.0
#: Answers of a store that has too much to do or is not well: the same request may succeed in a moment. 409 is S3's
#: answer to a conditional put that met another one under way.
_PASSING_STATUS: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_PASSING_CODES: Final = frozenset({
    "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "InternalError",
    "ServiceUnavailable", "OperationAborted", "ConditionalRequestConflict",
})  # fmt: skip
_PASSING_ERRNO: Final = frozenset({
    errno.EAGAIN, errno.EBUSY, errno.EREMOTEIO, errno.ETIMEDOUT, errno.EPIPE, errno.ENETDOWN, errno.ENETUNREACH,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED,
})  # fmt: skip
#: Connections that were not made, or were cut, by the names of the exceptions that packages have for that: of none of
#: them is the package needed here.
_PASSING_NAMES: Final = frozenset({
    "HTTPClientError",  # botocore: no connection, or no answer in time
    "ResponseParserError", "IncompleteReadError", "ResponseStreamingError",  # botocore: an answer that was cut
    "ClientConnectionError", "ClientPayloadError",  # aiohttp
    "IncompleteRead",
    "ServiceRequestError", "ServiceResponseError",  # azure-core
    "RequestException", "TransportError",  # requests and google-auth, as gcsfs raises them
    "ChecksumError",  # gcsfs: what came is not what is there
})  # fmt: skip
_CODE: Final = re.compile(r"[A-Za-z0-9]{1,64}")
_Result = TypeVar("_Result")


@final
class Trouble(Exception):
    """A request that failed, and why in words that hold no secret.

    ``again``: the same request may succeed in a moment. It may also have been done, and its answer be what was lost.
    """

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again


def patiently(request: Callable[[], _Result], seconds: float = PATIENCE_SECONDS) -> _Result:
    """Make a request, again and again with longer and longer waits while it meets what passes, for so many seconds.

    One that took all of that time, as where an answer never came, is made once more all the same, unless the time is
    short. Only for what may be done twice: reads, and puts that are settled afterwards. Raises what the last one met.
    """
    ends, wait, tries = time.monotonic() + seconds, _FIRST_WAIT, 0
    while True:
        tries += 1
        try:
            return request()
        except Trouble as trouble:
            # Whoever was throttled together with others should not come back together with them.
            pause = wait * (0.5 + random.random())  # noqa: S311
            late = time.monotonic() + pause > ends
            if not trouble.again or (late and (tries > 1 or seconds < _SHORT)):
                raise
        time.sleep(pause)
        wait = min(2 * wait, _LONGEST_WAIT)


def told(error: Exception) -> Exception:
    """What is to be raised in an error's place: FileNotFoundError, FileExistsError, `Trouble`, or EOFError for a range
    that begins behind the end.
    """
    if isinstance(error, Trouble):
        return error
    status, code = _answer(error)
    if code == "NoSuchBucket":
        # Nothing is missing from the store then: there is no store.
        return Trouble("there is no such bucket", again=False)
    if isinstance(error, FileNotFoundError) or status == 404:
        return FileNotFoundError()
    if status == 416:
        return EOFError()
    if isinstance(error, FileExistsError) or status == 412:
        return FileExistsError()
    if status in _PASSING_STATUS or code in _PASSING_CODES:
        return Trouble(_named(status, code), again=True)
    if status is not None or code is not None:
        return Trouble(_named(status, code), again=False)
    if isinstance(error, PermissionError):
        return Trouble(os.strerror(errno.EACCES), again=False)
    names = {each.__name__ for each in type(error).__mro__}
    passing = isinstance(error, ConnectionError | TimeoutError) or not names.isdisjoint(_PASSING_NAMES)
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if isinstance(number, int) and number > 0 else type(error).__name__
    return Trouble(reason, again=passing or number in _PASSING_ERRNO)


def _answer(error: BaseException) -> tuple[int | None, str | None]:
    """The HTTP status and the error code of the answer that an error is about, where it is about one."""
    # s3fs hands on botocore's answer as the cause of an error of its own.
    for each in (error, error.__cause__):
        response: Any = getattr(each, "response", None)
        if isinstance(response, dict):
            code = response.get("Error", {}).get("Code")
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status, str(code) if code is not None else None
    for name in ("status_code", "status", "code"):
        status = getattr(error, name, None)
        if isinstance(status, int | str) and str(status).isdigit():
            return int(status), None
    return None, None


def _named(status: int | None, code: str | None) -> str:
    if code is not None and _CODE.fullmatch(code) and not code.isdigit():
        return code
    return f"HTTP status {status}"
