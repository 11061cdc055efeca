"""The one dataset that every client is shown, and what each has to show of it.

Nested columns, nulls, time stamps with and without a zone, decimals and a dictionary; three shards; a grant of some of
the columns under a row filter.
"""

import datetime as dt
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pytest

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from vault.audit import Kind
from vault.client import Client, Dataset
from vault.errors import VaultError
from vault.owner import Vault
from vault.trust import Grant

__all__ = ["GRANTED", "NAME", "ROWS", "WHERE", "Shown", "expected", "publish", "shown", "table"]

NAME: Final = "shown"
ROWS: Final = 90
_SHARD_ROWS: Final = 30
#: What is granted, and of which rows; ``secret`` and ``lang`` are not.
GRANTED: Final = (
    "id",
    "prompt",
    "score",
    "price",
    "seen",
    "zoned",
    "day",
    "label",
    "tags",
    "meta",
    "messages",
    "vector",
)
WHERE: Final = "lang = 'en'"
_FIRST: Final = dt.datetime(2026, 1, 31, 12, 30, 15, 123456)


def table() -> pa.Table:
    """All of it, as it is published."""
    numbers = range(ROWS)

    def some(values: list[Any], every: int) -> list[Any]:
        return [None if number % every == 1 else value for number, value in zip(numbers, values, strict=True)]

    times = [_FIRST + dt.timedelta(hours=number) for number in numbers]
    zoned = [time.replace(tzinfo=dt.UTC) for time in times]
    meta = [{"source": f"s{number % 3}", "size": {"words": number, "lines": None}} for number in numbers]
    messages = [[{"role": "user", "content": f"question {number}"}] * (number % 3) for number in numbers]
    return pa.table(
        {
            "id": pa.array(numbers, pa.int64()),
            "prompt": pa.array(some([f"prompt number {number}" for number in numbers], 4), pa.string()),
            # Beyond what a float of 64 bits holds exactly.
            "score": pa.array(some([2**53 + number for number in numbers], 5), pa.int64()),
            "price": pa.array(some([Decimal(number) / 4 for number in numbers], 6), pa.decimal128(20, 4)),
            "seen": pa.array(some(times, 7), pa.timestamp("us")),
            "zoned": pa.array(some(zoned, 8), pa.timestamp("us", "Asia/Tokyo")),
            "day": pa.array(some([time.date() for time in times], 9), pa.date32()),
            "label": pa.array(some([f"l{number % 4}" for number in numbers], 10), pa.string()).dictionary_encode(),
            "tags": pa.array(some([[f"t{number}"] * (number % 3) for number in numbers], 6), pa.list_(pa.string())),
            "meta": pa.array(some(meta, 7)),
            "messages": pa.array(some(messages, 8)),
            "vector": pa.array([[number / 2, 1.0] for number in numbers], pa.list_(pa.float32(), 2)),
            "lang": ["en" if number % 3 else "de" for number in numbers],
            "secret": [f"never shown {number}" for number in numbers],
        }
    )


def expected() -> pa.Table:
    """The rows and columns that the grant lets through, in order."""
    whole = table()
    return whole.filter(pa.array([lang == "en" for lang in whole["lang"].to_pylist()])).select(list(GRANTED))


def publish(opened: Vault) -> None:
    """Publish it, in three shards, and grant acme its slice."""
    opened.publish(NAME, table(), key="id", shard_rows=_SHARD_ROWS)
    opened.grant("acme", NAME, list(GRANTED), where=WHERE, expires=dt.timedelta(days=1))


@dataclass(frozen=True, slots=True)
class Shown:
    """A lab that has published and granted it, its broker, and the vendor's profile and client."""

    lab: Lab
    grant: Grant
    endpoint: str
    profile: Path
    client: Client

    @property
    def dataset(self) -> Dataset:
        """The slice."""
        return self.client.dataset(NAME)

    def reads(self) -> list[dict[str, Any]]:
        """What the log says of each read that began, in order."""
        found = [entry for _, entry in self.lab.vault.audit_entries() if entry.kind is Kind.READ_BEGUN]
        return [dict(entry.fields) for entry in found]

    def check_log(self, *, reads: int | None = None, columns: tuple[str, ...] = GRANTED) -> None:
        """There were reads, or so many, and each was of these columns and no other."""
        found = self.reads()
        assert found
        assert reads is None or len(found) == reads
        assert {tuple(fields["columns"]) for fields in found} == {columns}

    @contextmanager
    def revoked(self) -> Iterator[None]:
        """End the grant, and wait until that counts, a second at the most: what is inside is refused in one sentence."""
        self.lab.vault.revoke(self.grant.id)
        until = time.monotonic() + 10
        while self.client.grants():
            assert time.monotonic() < until
            time.sleep(0.05)
        with pytest.raises(VaultError, match="granted|grant") as caught:
            yield
        assert "\n" not in str(caught.value)


@contextmanager
def shown(lab: Lab, *options: str) -> Iterator[Shown]:
    """A lab that has it (`publish`), served; ``options`` are the broker's."""
    (state,) = lab.vault.grants("acme")
    with broker(lab.folder, *options) as endpoint:
        profile = lab.profile("acme", endpoint)
        yield Shown(lab, state.grant, endpoint, profile, vault.connect(profile))
