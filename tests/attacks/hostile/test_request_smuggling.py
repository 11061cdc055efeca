"""A request within a request: bodies whose end is understood in two ways (RFC 9112 section 11.2)."""

import pytest

from tests.attacks.hostile.place import PLANTED, Hostile, statuses

_LAST = "Connection: close"


def _hidden(hostile: Hostile) -> bytes:
    """A request with globex's credential, as a proxy would send it next on the same connection."""
    return (
        b"POST /v1/datasets/secret/read HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        b"Connection: close\r\nAuthorization: " + hostile.globex.header().encode() + b"\r\n\r\n{}"
    )


def test_the_hidden_request_would_be_served(hostile: Hostile) -> None:
    """By itself it is a good one: what follows shows that it is not taken for one."""
    assert PLANTED in hostile.raw(_hidden(hostile))


@pytest.mark.parametrize(
    "lines",
    [
        ["Transfer-Encoding: chunked", "Content-Length: 4"],
        ["Content-Length: 4", "Transfer-Encoding: chunked"],
        ["Content-Length: 4", "Transfer-Encoding: identity"],
        ["Content-Length: 4", "Transfer-Encoding: xchunked"],
        ["Content-Length: 4", "Transfer-Encoding : chunked"],
        ["Content-Length: 4", "Transfer-Encoding:\tchunked"],
        ["Content-Length: 4", "Transfer-Encoding: \x0bchunked"],
        ["Content-Length: 4", "Transfer-Encoding: chunked, identity"],
        ["Content-Length: 4", "Transfer-Encoding: identity", "Transfer-Encoding: chunked"],
        ["Content-Length: 4", "Content-Length: 0"],
        ["Content-Length: 0", "Content-Length: 4"],
        ["Content-Length: 4, 0"],
        ["Content-Length: +4"],
        ["Content-Length: -1"],
        ["Content-Length: 0x4"],
        ["Content-Length: 4e0"],
        ["Content-Length: ４"],
        ["Content-Length: 4 0"],
        ["Content-Length:"],
        ["Content-Length: 99999999999999999999"],
        ["Content-Length : 4"],
    ],
)
def test_a_body_with_two_ends_is_refused_and_ends_the_connection(hostile: Hostile, lines: list[str]) -> None:
    """Two lengths, a length and chunks, or a length that is no number: one refusal, and nothing behind it is answered."""
    lines = [line.encode().decode("latin-1") for line in lines]
    for body in (b"0\r\n\r\n", b"{}{}", b""):
        head = hostile.head("POST", "/v1/datasets/evals/read", "Content-Type: application/json", *lines)
        received = hostile.raw(head + body + _hidden(hostile), silence=3)
        # What is not taken for HTTP is answered by closing; what is, once, and never with what globex may read.
        assert set(statuses(received)) <= {400, 411, 413, 501}, received[:200]
        assert len(statuses(received)) <= 2
        assert PLANTED not in received


@pytest.mark.parametrize(
    "body",
    [b"2\r\n{}\r\n0\r\n\r\n", b"2;x=y\r\n{}\r\n0\r\nAuthorization: x\r\n\r\n", b"ffffffffffffffff\r\n", b"-1\r\n"],
)
def test_chunks_are_not_taken_at_all(hostile: Hostile, body: bytes) -> None:
    """A body of a length that is not said is refused, with or without trailers."""
    head = hostile.head(
        "POST", "/v1/datasets/evals/read", "Content-Type: application/json", "Transfer-Encoding: chunked"
    )
    received = hostile.raw(head + body, silence=3)
    assert statuses(received)[0] in {400, 411}
    assert PLANTED not in received


def test_a_body_that_is_a_request_is_a_body(hostile: Hostile) -> None:
    """Within its stated length, a request in a body is text that is no JSON."""
    hidden = _hidden(hostile)
    head = hostile.head(
        "POST", "/v1/datasets/evals/read", "Content-Type: application/json", f"Content-Length: {len(hidden)}", _LAST
    )
    received = hostile.raw(head + hidden)
    assert statuses(received) == [400]
    assert PLANTED not in received


def test_a_request_with_a_body_that_nobody_reads(hostile: Hostile) -> None:
    """A GET with a body, and a refused request with one, leave nothing of it to be taken for the next request."""
    hidden = _hidden(hostile)
    for method, path, status in (("GET", "/v1/datasets", 200), ("GET", "/nowhere", 404), ("POST", "/v1/datasets", 405)):
        head = hostile.head(method, path, f"Content-Length: {len(hidden)}", _LAST)
        received = hostile.raw(head + hidden)
        assert statuses(received) == [status]
        assert PLANTED not in received


def test_a_body_that_never_comes_is_no_answer(hostile: Hostile) -> None:
    """A length beyond what is sent: nothing is served on the part that came."""
    head = hostile.head("POST", "/v1/datasets/evals/read", "Content-Type: application/json", "Content-Length: 30")
    assert statuses(hostile.raw(head + b"{}", silence=1)) == []


@pytest.mark.parametrize("size", [70_000, 10**9, 10**17])
def test_a_long_body_is_refused_by_its_length(hostile: Hostile, size: int) -> None:
    """Before any of it came."""
    head = hostile.head("POST", "/v1/datasets/evals/read", "Content-Type: application/json", f"Content-Length: {size}")
    assert statuses(hostile.raw(head, silence=3)) == [413]
