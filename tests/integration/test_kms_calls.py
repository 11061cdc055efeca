"""How often the KMS is asked: it grows with columns and vendors, never with shards or bytes."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import vault
from tests.support.reading import read
from vault import access, deployment
from vault.kms import Kms
from vault.owner import Vault

COLUMNS = [f"c{number}" for number in range(12)]
VENDORS = ("a", "b", "c")


class Counting:
    """A KMS that counts what it is asked."""

    def __init__(self, kms: Kms) -> None:
        self._kms = kms
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._kms, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls[name] += 1
            return found(*arguments, **options)

        return call


@pytest.fixture
def counted(tmp_path: Path) -> tuple[Path, Vault, Counting]:
    """A lab with three vendors whose KMS is counted."""
    made: list[Counting] = []

    def wrap(kms: Kms) -> Kms:
        made.append(Counting(kms))
        return made[0]  # type: ignore[return-value]

    opened = vault.init(tmp_path / "lab")
    for vendor in VENDORS:
        opened.add_vendor(vendor)
    return tmp_path / "lab", Vault(tmp_path / "lab", deployment.open_owner(tmp_path / "lab", kms_wrap=wrap)), made[0]


def _table(rows: int) -> pa.Table:
    return pa.table({name: list(range(rows)) for name in COLUMNS})


@pytest.mark.parametrize("shards", [60, pytest.param(1000, marks=pytest.mark.soak)])
def test_publishing_asks_for_keys_and_not_for_shards(counted: tuple[Path, Vault, Counting], shards: int) -> None:
    """Any number of shards of 12 columns for the owner and three vendors: at most 12 x 4 + 4 x 4 calls."""
    folder, opened, kms = counted
    limit = len(COLUMNS) * 4 + 4 * 4
    opened.publish("evals", _table(3), shard_rows=1)
    for vendor in VENDORS:
        opened.grant(vendor, "evals", COLUMNS)
    assert sum(kms.calls.values()) <= limit, kms.calls
    # A process that holds no key yet publishes the next version to all of them.
    again = Counting(kms._kms)
    fresh = Vault(folder, deployment.open_owner(folder, kms_wrap=lambda _: again))  # type: ignore[arg-type, return-value]
    fresh.publish("evals", _table(shards), shard_rows=1)
    with fresh.parts.catalog.read() as transaction:
        assert len(transaction.compartments()) == 4
    assert sum(again.calls.values()) <= limit, again.calls


def test_a_fetch_asks_once_for_each_column(counted: tuple[Path, Vault, Counting]) -> None:
    """A cold fetch makes at most one call a column, filter columns included, and 3 besides; a warm one makes none."""
    folder, opened, _ = counted
    opened.publish("evals", _table(40), shard_rows=1)
    opened.grant("a", "evals", COLUMNS[:4], where="c5 >= 0 AND c6 >= 0")
    made: list[Counting] = []

    def wrap(kms: Kms) -> Kms:
        made.append(Counting(kms))
        return made[0]  # type: ignore[return-value]

    token = opened.issue_credential("a", bearer=True).profile.token
    parts, _ = deployment.open_broker(folder, kms_wrap=wrap)
    caller = access.authenticate(parts, token, "test")
    assert read(parts, caller).num_rows == 40
    assert sum(made[0].calls.values()) <= 4 + 2 + 3, made[0].calls
    made[0].calls.clear()
    assert read(parts, caller).num_rows == 40
    assert not made[0].calls
