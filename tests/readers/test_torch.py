"""Training from a granted slice: every row once in an epoch, however many workers and ranks there are."""

import json
import pickle
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import pyarrow as pa
import pytest

import vault
from tests.support.loaders import drained
from tests.support.shown import GRANTED, Shown, expected, table
from vault.errors import Conflict, InvalidInput, NotGranted
from vault.readers import Extent, Readers

torch = pytest.importorskip("torch", reason="torch is not installed: make torch")
from torch.utils.data import DataLoader  # noqa: E402

_IDS = expected()["id"].to_pylist()
_NUMBERS = ["id", "vector", "prompt"]


def _loader(dataset: Any, workers: int = 0, **options: Any) -> Any:
    return DataLoader(dataset, batch_size=None, num_workers=workers, **options)


def _ids(loader: Any) -> list[int]:
    return [row["id"] for row in loader]


def test_rows_are_equal(given: Shown) -> None:
    """As dicts, with the granted columns alone, each part a read in the log; a revoked grant is refused."""
    rows = list(given.dataset.to_torch(parts=3))
    assert sorted(rows, key=lambda row: row["id"]) == expected().to_pylist()
    assert {tuple(row) for row in rows} == {GRANTED}
    given.check_log(reads=3)
    dataset = given.dataset.to_torch()
    with given.revoked():
        next(iter(dataset))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_have_every_row_once(given: Shown, start: str) -> None:
    """Each over connections of its own, whether it was forked or spawned; none is sent a secret."""
    given.client.grants()  # the parent has a connection that is kept open
    dataset = given.dataset.to_torch(parts=5)
    assert sorted(_ids(_loader(dataset, 2, multiprocessing_context=start))) == _IDS
    given.check_log(reads=5)
    document = json.loads(given.profile.read_text())
    sent = pickle.dumps(dataset)
    assert str(given.profile).encode() in sent
    for secret in (document["secret"], document["key"]["d"], given.client.profile.token.secret):
        assert (secret.encode() if isinstance(secret, str) else secret) not in sent


def test_an_epochs_order_is_by_seed_and_epoch(given: Shown) -> None:
    """The same again for the same, another for another, and every row in each; workers that stay hear of the epoch."""
    dataset = given.dataset.to_torch(parts=8, shuffle=True, seed=7)
    loader = _loader(dataset, 2, persistent_workers=True)
    orders = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        orders.append(_ids(loader))
    assert all(sorted(order) == _IDS for order in orders)
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]
    other = given.dataset.to_torch(parts=8, shuffle=True, seed=8)
    assert sorted(_ids(other)) == _IDS
    alone = given.dataset.to_torch(parts=8, shuffle=True, seed=7)
    assert _ids(alone) != _ids(other)
    assert _ids(alone) == _ids(alone)


def test_ranks_share_the_parts(given: Shown) -> None:
    """Every row comes to one of three processes, of which one has two workers, and to one of these."""
    given.lab.vault.grant("globex", "shown", ["id"])
    whole = vault.connect(given.lab.profile("globex", given.endpoint)).dataset("shown")
    shares = [whole.to_torch(parts=3, rank=rank, world_size=3) for rank in range(3)]
    found = [_ids(_loader(shares[0], 2)), *(_ids(share) for share in shares[1:])]
    assert sorted(chain(*found)) == list(range(90))
    assert [len(ids) for ids in found] == [30, 30, 30]
    shares = [whole.to_torch(parts=9, rank=rank, world_size=3, shuffle=True, seed=2) for rank in range(3)]
    assert sorted(chain(*map(_ids, shares))) == list(range(90))
    for options in ({"rank": 1}, {"rank": 3, "world_size": 3}, {"rank": True, "world_size": 2}):
        with pytest.raises(InvalidInput, match="^rank"):
            given.dataset.to_torch(**options)


def test_torch_distributed_says_the_rank(given: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is initialised and nothing else is said."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    found = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        found.append(_ids(given.dataset.to_torch(parts=6)))
    assert sorted(chain(*found)) == _IDS


def test_batches_are_tensors(given: Shown) -> None:
    """Numbers and vectors are tensors of their types, all else lists; of one size across parts, but for the last."""
    batches = list(_loader(given.dataset.to_torch(parts=3, batch_size=25, columns=_NUMBERS)))
    assert [len(batch["id"]) for batch in batches] == [25, 25, 10]
    assert {(batch["id"].dtype, batch["vector"].dtype) for batch in batches} == {(torch.int64, torch.float32)}
    wanted = {row["id"]: row for row in expected().to_pylist()}
    ids = torch.cat([batch["id"] for batch in batches]).tolist()
    assert sorted(ids) == _IDS
    assert torch.cat([batch["vector"] for batch in batches]).tolist() == [wanted[number]["vector"] for number in ids]
    assert list(chain(*(batch["prompt"] for batch in batches))) == [wanted[number]["prompt"] for number in ids]


def test_a_tensor_does_not_hold_a_null(given: Shown) -> None:
    """Whole numbers beside nulls would not be exact as floats: they are refused by name, and rows are not."""
    with pytest.raises(InvalidInput, match="^column score: it has nulls") as caught:
        list(given.dataset.to_torch(batch_size=10, columns=["score"]))
    assert "\n" not in str(caught.value)
    kept = list(given.dataset.to_torch(batch_size=10, columns=["score"], where="score IS NOT NULL"))
    assert sum(len(batch["score"]) for batch in kept) == len(expected()) - expected()["score"].null_count


def test_an_epoch_is_of_one_version(given: Shown) -> None:
    """What is published meanwhile is refused, in workers too in one sentence, until the next epoch takes it up."""
    dataset = given.dataset.to_torch(parts=4)
    reading: Iterator[Any] = iter(dataset)
    next(reading)
    given.lab.vault.publish("shown", table().slice(0, 50), key="id")
    with pytest.raises(Conflict, match="^version: it is version 2 that is read now, and not 1$"):
        drained(_loader(dataset, 1))
    dataset.set_epoch(1)
    assert dataset.version == 2
    assert sorted(_ids(_loader(dataset, 1))) == [number for number in _IDS if number < 50]


def test_a_revoked_grant_comes_out_of_a_loader(given: Shown) -> None:
    """As the error that it is, with its one sentence and no traceback in it."""
    loader = _loader(given.dataset.to_torch(parts=4), 2)
    with given.revoked():
        drained(loader)
    with pytest.raises(NotGranted, match="^no dataset or column of that name is granted to you$"):
        drained(loader)


def test_a_worker_opens_what_it_reads_from_or_says_that_it_cannot(given: Shown) -> None:
    """What cannot be opened by what it names is not read over what a worker's parent holds."""
    rows = _Unsent(given.dataset).to_torch(parts=2)
    assert sorted(_ids(rows)) == _IDS
    with pytest.raises(InvalidInput, match="^these rows cannot be read by another process; [^\n]+$"):
        drained(_loader(rows, 1, multiprocessing_context="fork"))


@dataclass(frozen=True)
class _Unsent(Readers):
    """Rows of another's, which holds what is of its process alone."""

    whole: Any
    lock: Any = field(default_factory=threading.Lock)

    @property
    def schema(self) -> pa.Schema:
        return self.whole.schema

    def scan(self, *args: Any, **options: Any) -> pa.RecordBatchReader:
        return self.whole.scan(*args, **options)

    def extent(self, *args: Any, **options: Any) -> Extent:
        return self.whole.extent(*args, **options)


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"batch_size": True}, {"seed": -1}, {"parts": 0}, {"parts": 65_537}, {"limit": 3}],
)
def test_what_cannot_be_is_refused(given: Shown, options: dict[str, Any]) -> None:
    """In one sentence that names the option."""
    with pytest.raises(InvalidInput, match=f"^{next(iter(options))}[:,] ?[^\n]+$"):
        given.dataset.to_torch(**options)
