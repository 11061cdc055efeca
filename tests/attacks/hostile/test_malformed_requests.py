"""Bodies that are no requests."""

from typing import Any

import pytest
import urllib3

from tests.attacks.hostile.place import Hostile, problem


@pytest.mark.parametrize(
    "body",
    [
        {"limit": -1},
        {"limit": "1"},
        {"limit": 1.5},
        {"limit": True},
        {"limit": 2**70},
        {"columns": ["x" * 2000]},
        {"columns": ["x"] * 10_001},
        {"columns": {"id": 1}},
        {"where": 1},
        {"where": ["id = 1"]},
        {"where": "x" * 5000},
        {"grant": 1},
        {"grant": "f" * 65},
        {"vendor": "globex"},
        {"compression": "gzip"},
        {"dataset": "secret"},
        [],
        "x",
        None,
        7,
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 10_000,
        b'{"columns": ' + b"[" * 30_000,
        b'{"limit": NaN}',
        b'{"limit": Infinity}',
        b'{"limit": 1e400}',
    ],
)
def test_malformed_requests_are_400(hostile: Hostile, body: Any) -> None:
    """Whatever is not a request is refused with a problem document and never with a 5xx."""
    problem(hostile.read(body), 400)
    problem(hostile.lease(body), 400)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "multipart/form-data", "application/x-www-form-urlencoded"]
)
def test_a_body_of_another_kind_is_no_request(hostile: Hostile, kind: str) -> None:
    """A browser could send those without asking (they need no preflight)."""
    problem(hostile.read({"columns": ["id"]}, **{"Content-Type": kind}), 415)


def test_too_long_and_chunked_bodies_are_refused(hostile: Hostile) -> None:
    """A body beyond 64 KiB, or of a length that is not said, is not read."""
    problem(hostile.read(b'{"where": "' + b"x" * 70_000 + b'"}'), 413)
    response = urllib3.PoolManager(retries=False).request(
        "POST",
        f"{hostile.endpoint}/v1/datasets/evals/read",
        body=iter([b"{", b"}"]),
        headers={"Authorization": hostile.acme.header(), "Content-Type": "application/json"},
        chunked=True,
    )
    problem(response, 411)
