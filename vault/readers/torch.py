"""Rows for PyTorch, in parts that the workers of a loader and the ranks of a job share out among them.

Each worker reads parts of its own over connections of its own; what it is sent for that names the profile's file, and
holds no key. An epoch is of one version: every row of it comes once.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import IterableDataset, get_worker_info

from vault.errors import InvalidInput
from vault.readers.parts import usual_parts
from vault.readers.readers import Readers
from vault.readers.workers import own, told

__all__ = ["Rows"]


class Rows(IterableDataset[Any]):  # type: ignore[misc]
    """Rows as dicts, or with ``batch_size`` batches as dicts by column, to be given to a loader with batch_size=None.

    Of a batch, columns of numbers and lists of as many numbers each are tensors, and all others lists. ``shuffle`` has
    parts in another order in each epoch, and the rows of each batch that the broker sends: by ``seed`` and epoch.
    ``rank`` of ``world_size`` processes reads its share of the parts; by default what torch.distributed says now.
    """

    def __init__(
        self,
        source: Readers,
        options: Mapping[str, Any],
        *,
        batch_size: int | None,
        shuffle: bool,
        seed: int,
        parts: int | None,
        rank: int | None,
        world_size: int | None,
    ) -> None:
        super().__init__()
        if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
            raise InvalidInput("batch_size: give a number of rows, 1 at the least, or leave it out")
        if type(seed) is not int or seed < 0:
            raise InvalidInput("seed: give a whole number, 0 at the least")
        self._source = source
        self._options = dict(options)
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._seed = seed
        self._rank, self._world_size = _place(rank, world_size)
        extent = source.extent(**self._of_grant())
        self._parts = usual_parts(parts, extent)
        # Shared, so that workers that stay from one epoch to the next are told as well.
        self._epoch = torch.tensor([0, extent.version], dtype=torch.int64).share_memory_()

    @property
    def version(self) -> int:
        """The version that this epoch is of."""
        return int(self._epoch[1])

    def set_epoch(self, epoch: int, version: int | None = None) -> None:
        """Begin an epoch, of the version that is read now: call it before each one, in the process that has the loader.

        Every rank of a job has to read the same ``version``: what one was told, the others can be.
        """
        if type(epoch) is not int or epoch < 0:
            raise InvalidInput("epoch: give a whole number, 0 at the least")
        if version is None:
            version = self._source.extent(**self._of_grant()).version
        self._epoch.copy_(torch.tensor([epoch, version]))

    def __iter__(self) -> Iterator[Any]:
        """This worker's share of this epoch; raises what reading does, in a worker too with its one sentence."""
        worker = get_worker_info()
        number, of = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        batches = self._batches(number, of)
        with told():
            if self._batch_size is None:
                yield from (row for batch in batches for row in batch.to_pylist())
            else:
                yield from (_tensors(batch) for batch in _cut(batches, self._batch_size))

    def _batches(self, worker: int, workers: int) -> Iterator[pa.RecordBatch]:
        epoch, version = self._epoch.tolist()
        order = np.arange(self._parts)
        if self._shuffle:
            np.random.default_rng([self._seed, epoch]).shuffle(order)
        # First by rank: ranks may have different numbers of workers.
        source = own(self._source)
        for index in order[self._rank :: self._world_size][worker::workers].tolist():
            chance = np.random.default_rng([self._seed, epoch, index])
            reader = source.scan(**self._options, part=(index, self._parts), version=version)
            for batch in reader:
                yield batch.take(pa.array(chance.permutation(batch.num_rows))) if self._shuffle else batch

    def _of_grant(self) -> dict[str, Any]:
        return {name: value for name, value in self._options.items() if name == "grant" and value is not None}


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise InvalidInput("rank and world_size go together")
    if rank is None or world_size is None:
        distributed = torch.distributed
        known = distributed.is_available() and distributed.is_initialized()
        return (distributed.get_rank(), distributed.get_world_size()) if known else (0, 1)
    if type(rank) is not int or type(world_size) is not int or not 0 <= rank < world_size:
        raise InvalidInput("rank: ranks are counted from 0, and less than world_size")
    return rank, world_size


def _cut(batches: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of one size, but for the last."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        at = 0
        while rows + batch.num_rows - at >= size:
            waiting.append(batch.slice(at, size - rows))
            at += size - rows
            yield pa.concat_batches(waiting)
            waiting, rows = [], 0
        if at < batch.num_rows:
            waiting.append(batch.slice(at))
            rows += batch.num_rows - at
    if waiting:
        yield pa.concat_batches(waiting)


def _tensors(batch: pa.RecordBatch) -> dict[str, Any]:
    return {name: _column(name, values) for name, values in zip(batch.schema.names, batch.columns, strict=True)}


def _column(name: str, values: pa.Array) -> Any:
    """A tensor, or a list for what is none in any batch: which of both is up to the type alone."""
    if _is_number(values.type):
        return _tensor(name, values)
    if pa.types.is_fixed_size_list(values.type) and _is_number(values.type.value_type):
        if values.null_count:
            raise _no_tensor(name)
        # Not .values, which has the rows of what this is a slice of.
        return _tensor(name, values.flatten()).reshape(len(values), values.type.list_size)
    return values.to_pylist()


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _tensor(name: str, values: pa.Array) -> Any:
    if values.null_count and not pa.types.is_floating(values.type):
        raise _no_tensor(name)
    # A null among floats is NaN; a copy, since tensors can be written to and what Arrow has may not.
    return torch.from_numpy(np.array(values.to_numpy(zero_copy_only=False)))


def _no_tensor(name: str) -> InvalidInput:
    return InvalidInput(
        f"column {name}: it has nulls, which a tensor of it cannot hold; keep those rows out with where, choose other "
        "columns, or read rows without batch_size"
    )
