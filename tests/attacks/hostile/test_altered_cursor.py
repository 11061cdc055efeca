"""Going on from a place that was never reached."""

import base64
from collections.abc import Callable

import pytest

from tests.attacks.hostile.place import Hostile, problem
from vault.cursors import CURSOR_BYTES


def _sent(hostile: Hostile, data: bytes, **body: object) -> dict[str, object]:
    cursor = base64.b64encode(data).decode()
    with hostile.recorded("InvalidInput"):
        return problem(hostile.read({"cursor": cursor, **body}, "shared"), 400)


@pytest.mark.parametrize("part", ["salt", "nonce", "shard", "row", "sent", "tag"])
def test_every_part_of_a_cursor_counts(hostile: Hostile, part: str) -> None:
    """One bit of its salt, its nonce, its sealed numbers or its tag that differs, and it opens nothing."""
    at = {"salt": 3, "nonce": 20, "shard": 31, "row": 39, "sent": 47, "tag": CURSOR_BYTES - 1}[part]
    data = base64.b64decode(hostile.cursor())
    _sent(hostile, bytes([*data[:at], data[at] ^ 1, *data[at + 1 :]]))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"\x00",
        lambda data: data + data,
        lambda data: data[::-1],
        lambda data: bytes(len(data)),
        lambda data: data[16:],
        lambda data: data[:16] + bytes(12) + data[28:],
    ],
)
def test_no_other_length_or_order_is_a_cursor(hostile: Hostile, change: Callable[[bytes], bytes]) -> None:
    """Cut, lengthened, turned round, blanked: refused, with one sentence for all."""
    document = _sent(hostile, change(base64.b64decode(hostile.cursor())))
    assert "begin the read anew" in str(document["detail"])


def test_two_cursors_do_not_make_a_third(hostile: Hostile) -> None:
    """The salt of one with the seal of another, of one and the same read."""
    one, other = (base64.b64decode(hostile.cursor()) for _ in range(2))
    _sent(hostile, one[:16] + other[16:])
    _sent(hostile, one[:28] + other[28:])


@pytest.mark.parametrize(
    "body", [{"columns": ["id"]}, {"columns": ["text", "id"]}, {"where": "id >= 0"}, {"limit": 1}, {"limit": 50}]
)
def test_a_cursor_is_of_one_request(hostile: Hostile, body: dict[str, object]) -> None:
    """For other columns, another order of them, another predicate or limit it is as good as altered."""
    _sent(hostile, base64.b64decode(hostile.cursor()), **body)


def test_a_cursor_of_a_stream_is_none_of_a_lease(hostile: Hostile) -> None:
    """Nor the other way round: a lease counts its shards otherwise."""
    import json

    problem(hostile.lease({"cursor": hostile.cursor("leased")}), 400)
    place = json.loads(hostile.lease({}).data)["shards"][0]["cursor"]
    problem(hostile.read({"cursor": place}, "leased"), 400)


@pytest.mark.parametrize("cursor", ["", "x", "%%%", "a" * 256, "a" * 257, "é" * 64, 7, ["x"], {"shard": 0}])
def test_what_is_no_text_of_a_cursor_is_refused(hostile: Hostile, cursor: object) -> None:
    """Anything that is not base64 of a cursor's length."""
    problem(hostile.read({"cursor": cursor}, "shared"), 400)


def test_a_cursor_of_another_dataset_is_refused(hostile: Hostile) -> None:
    """Of the caller's own reads, too, each has its own."""
    cursor = hostile.cursor("evals")
    with hostile.recorded("InvalidInput"):
        problem(hostile.read({"cursor": cursor}, "shared"), 400)
