"""Whether the time of a refusal tells what is forbidden from what is not there: ``bench/run.py --telling``.

Requests of every kind go to one broker over one connection, in random order, so that whatever else the machine does
hits all kinds alike. Beside the difference of two medians stands what chance alone makes of it: the times of both
kinds are thrown together and dealt out again at random, many times, and 99 of 100 such differences are smaller.
"""

import base64
import json
import random
import re
import socket
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from serving import brokers

import vault
from vault.encoding import new_id
from vault.owner import Vault
from vault.wire import Token

_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)")
_DEALS = 500


@dataclass(frozen=True)
class _Kind:
    """What is asked for, and the request."""

    name: str
    request: bytes


@dataclass(frozen=True)
class _Answer:
    """Seconds to the last byte, and what is compared of the answer: all of it but its date and the request's id."""

    seconds: float
    said: bytes


def telling(folder: Path, *, quick: bool) -> None:
    """Print the rows of docs/benchmarks.md: refusals of what is not there beside refusals of what is."""
    count = 500 if quick else 10_000
    opened = _lab(folder / "lab")
    with brokers(folder / "lab", 1) as (server,):
        url = server.url
        groups = _groups(opened, urlsplit(url).netloc)
        times = _measure(url, groups, count)
    sys.stdout.write(
        f"{count} requests of each kind, in random order over one connection.\n\n"
        "| not there | there, but not for the caller | median | median | difference | by chance (99 of 100) |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    for unknown, *others in groups:
        for other in others:
            _row(unknown.name, other.name, times[unknown], times[other])


def _lab(folder: Path) -> Vault:
    opened = vault.init(folder)
    table = pa.table({name: [f"{name} {number}" for number in range(1000)] for name in ("prompt", "answer", "lang")})
    for vendor in ("acme", "globex"):
        opened.add_vendor(vendor)
    for dataset in ("evals", "secret"):
        opened.publish(dataset, table)
    opened.grant("acme", "evals", ["prompt"])
    opened.grant("globex", "secret", ["answer"])
    return opened


def _groups(opened: Vault, place: str) -> list[list[_Kind]]:
    """Kinds whose answers are to look alike, the one for what is not there first; names are of one length."""
    token, ended = (opened.issue_credential("acme", bearer=True).profile.token for _ in range(2))
    opened.revoke_credential(ended.credential)
    revoked = opened.grant("acme", "evals", ["lang"]).id
    opened.revoke(revoked)
    (foreign,) = (state.grant.id for state in opened.grants("globex"))
    vendors = {vendor.name: vendor.id for vendor in opened.vendors()}

    def read(name: str, body: object, dataset: str = "evals", by: Token = token) -> _Kind:
        data = json.dumps(body).encode()
        head = f"POST /v1/datasets/{dataset}/read HTTP/1.1\r\nHost: {place}\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(data)}\r\nAuthorization: {by.header()}\r\n\r\n"
        return _Kind(name, head.encode() + data)

    def fetch(name: str, vendor: str) -> _Kind:
        ticket = base64.urlsafe_b64encode(bytes.fromhex(vendor) + b"x" * 300).decode().rstrip("=")
        return _Kind(name, f"GET /v1/objects/{ticket} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())

    return [
        [read("dataset", {}, "sekret"), read("another vendor's dataset", {}, "secret")],
        [read("column", {"columns": ["answor"]}), read("column that is not granted", {"columns": ["answer"]})],
        [
            read("column in a predicate", {"where": "answor = 'x'"}),
            read("column that is not granted, in a predicate", {"where": "answer = 'x'"}),
        ],
        [
            read("grant", {"grant": new_id()}),
            read("another vendor's grant", {"grant": foreign}),
            read("grant that was revoked", {"grant": revoked}),
        ],
        [
            read("credential", {}, by=Token(new_id(), token.secret)),
            read("credential, with a wrong secret", {}, by=Token(token.credential, ended.secret)),
            read("credential that was revoked", {}, by=ended),
        ],
        [fetch("address of ciphertext, vendor", new_id()), fetch("vendor, forged address", vendors["globex"])],
    ]


def _measure(url: str, groups: list[list[_Kind]], count: int) -> dict[_Kind, np.ndarray]:
    """Times in seconds by kind. The answers of a group have to be the same to the byte."""
    place = urlsplit(url)
    kinds = [kind for group in groups for kind in group]
    order = kinds * count
    random.shuffle(order)
    found: dict[_Kind, list[float]] = {kind: [] for kind in kinds}
    said: dict[_Kind, bytes] = {}
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for kind in kinds * 20:  # what the broker reads only once
            _ask(connection, kind.request)
        for kind in order:
            answer = _ask(connection, kind.request)
            found[kind].append(answer.seconds)
            if said.setdefault(kind, answer.said) != answer.said:
                raise RuntimeError(f"two answers to one request: {kind.name}")
    for group in groups:
        if len({said[kind] for kind in group}) != 1 or said[group[0]].startswith(b"HTTP/1.1 2"):
            raise RuntimeError(f"the answers differ, or are none: {[kind.name for kind in group]}")
    return {kind: np.array(seconds) for kind, seconds in found.items()}


def _ask(connection: socket.socket, request: bytes) -> _Answer:
    began = time.perf_counter()
    connection.sendall(request)
    data = b""
    while not _whole(data):
        more = connection.recv(65_536)
        if not more:
            raise RuntimeError("the broker closed the connection")
        data += more
    return _Answer(
        time.perf_counter() - began, re.sub(rb"\r\n(?:date|x-request-id): [^\r]*", b"", data, flags=re.IGNORECASE)
    )


def _whole(data: bytes) -> bool:
    head, end, body = data.partition(b"\r\n\r\n")
    length = _LENGTH.search(head.lower())
    return bool(end) and length is not None and len(body) >= int(length[1])


def _row(unknown: str, other: str, left: np.ndarray, right: np.ndarray) -> None:
    apart = abs(float(np.median(left)) - float(np.median(right)))
    both, deals, dealer = np.concatenate([left, right]), [], np.random.default_rng()
    for _ in range(_DEALS):
        dealer.shuffle(both)
        deals.append(abs(float(np.median(both[: len(left)])) - float(np.median(both[len(left) :]))))
    chance = statistics.quantiles(deals, n=100)[-1]
    medians = f"{np.median(left) * 1e6:.0f} µs | {np.median(right) * 1e6:.0f} µs"
    sys.stdout.write(f"| {unknown} | {other} | {medians} | {apart * 1e6:.0f} µs | {chance * 1e6:.0f} µs |\n")
    sys.stdout.flush()
