"""Telling what exists by how long a refusal takes.

How alike the times are is measured by ``bench/run.py --telling``; here is what makes them so.
"""

import time
from collections.abc import Callable

import pytest
import urllib3

from tests.attacks.hostile.place import Hostile, problem
from vault.wire import OBJECTS_PATH, Token

_STEP = 0.02


def _wrong_secret(hostile: Hostile) -> urllib3.BaseHTTPResponse:
    token = Token(hostile.acme.credential, hostile.globex.secret)
    return hostile.get("/v1/datasets", {"Authorization": token.header()})


def _unknown(hostile: Hostile) -> urllib3.BaseHTTPResponse:
    return hostile.get("/v1/datasets", {"Authorization": Token("0" * 32, hostile.acme.secret).header()})


def _malformed(hostile: Hostile) -> urllib3.BaseHTTPResponse:
    return hostile.get("/v1/datasets", {"Authorization": "Bearer x"})


def _address(hostile: Hostile) -> urllib3.BaseHTTPResponse:
    return hostile.get(OBJECTS_PATH + "x" * 200, {})


@pytest.mark.parametrize("ask", [_wrong_secret, _unknown, _malformed, _address])
def test_a_refused_credential_or_address_takes_a_step(
    hostile: Hostile, ask: Callable[[Hostile], urllib3.BaseHTTPResponse]
) -> None:
    """However far such a request comes, none is answered before the first step is over, be it by a millisecond's work."""
    for _ in range(5):
        began = time.perf_counter()
        answer = ask(hostile)
        took = time.perf_counter() - began
        problem(answer, 401, 404)
        assert took >= _STEP
