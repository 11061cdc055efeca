"""Addresses of ciphertext that were handed to somebody else, or to nobody."""

import base64
import os
from pathlib import Path

import pytest

from tests.attacks.hostile.place import PLANTED, Hostile, problem
from vault.wire import OBJECTS_PATH, LeasePage


def _path(hostile: Hostile, dataset: str = "secret") -> str:
    by = hostile.globex if dataset == "secret" else hostile.acme
    return LeasePage.parse(hostile.lease({"direct": False}, dataset, by).json()).shards[0].chunks[0].url


def test_a_stolen_address_gives_ciphertext_and_no_key(hostile: Hostile) -> None:
    """The address is leave enough for what it names, and what it names is worth nothing without the page's keys."""
    answer = hostile.get(_path(hostile))
    assert answer.status == 200
    assert answer.data[:4] == answer.data[-4:] == b"PARE"
    assert PLANTED not in answer.data


def test_an_address_is_of_one_object(hostile: Hostile) -> None:
    """No other name, path or query in it or behind it leads to another object."""
    path = _path(hostile, "leased")
    objects = Path(hostile.lab.folder / "store" / "objects")
    name = next(found for found in objects.rglob("*") if found.is_file()).relative_to(objects.parent)
    for other in (
        f"{OBJECTS_PATH}{name}",
        f"{OBJECTS_PATH}{name.name}",
        f"{OBJECTS_PATH}..%2f{name}",
        f"{path}/../{name.name}",
        f"{path}%2f{name.name}",
        f"{path}%00{name.name}",
        f"{path}/",
        f"{path}x",
        path[:-1],
        path.upper(),
        f"{OBJECTS_PATH}{path.removeprefix(OBJECTS_PATH)[::-1]}",
    ):
        problem(hostile.get(other), 404)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 31, 32, 60, 300, 3000])
def test_an_invented_address_gives_nothing(hostile: Hostile, size: int) -> None:
    """Whatever its length, and whoever's name is on it."""
    vendors = {found.name: bytes.fromhex(found.id) for found in hostile.lab.vault.vendors()}
    for begin in (b"", vendors["acme"], vendors["globex"]):
        ticket = base64.urlsafe_b64encode((begin + os.urandom(3000))[:size]).decode().rstrip("=")
        problem(hostile.get(OBJECTS_PATH + (ticket or "-")), 404)


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-",
        "bytes=-5",
        "bytes=0-0",
        "bytes=0-0,4-8",
        "bytes=4-2",
        "bytes=x-y",
        "items=0-1",
        "bytes=" + "9" * 18 + "-",
    ],
)
def test_a_range_is_within_the_object(hostile: Hostile, asked: str) -> None:
    """However a range is written, no byte before or behind the object is sent."""
    path = _path(hostile, "leased")
    whole = hostile.get(path, {}).data
    answer = hostile.get(path, {"Range": asked})
    assert answer.status in {200, 206, 416}
    assert answer.status == 416 or answer.data in whole


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_an_object_is_read_and_nothing_else(hostile: Hostile, method: str) -> None:
    """No method changes or removes it."""
    import urllib3

    path = _path(hostile, "leased")
    assert urllib3.request(method, hostile.endpoint + path, retries=False).status == 405
    assert hostile.get(path, {}).status == 200
