"""Ray Data reads versions and granted slices, and publishes datasets: imported only by who uses it.

    ray.data.read_datasource(VersionSource("evals", vault="lab"))          the lab's own pipeline, block by shard
    ray.data.read_datasource(SliceSource("evals", profile="acme.json"))    a vendor, or a lab under a grant
    dataset.write_datasink(VersionSink("scored", vault="lab"))             a new version

Blocks are rows: Ray Data keeps them in its object store, spills them to disk and sends them between nodes in the
clear. Whoever reads a version into Ray Data has decided that its rows may be there. Keys are not there: every task
opens the vault, or the profile, by what it finds on its own machine.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import pyarrow as pa
from ray.data import Datasink, Datasource
from ray.data.block import BlockAccessor, BlockMetadata
from ray.data.datasource import ReadTask

from vault import client
from vault import datasets as _datasets
from vault.deployment import Configuration, find_vault
from vault.errors import InvalidInput, Unavailable, VaultError
from vault.model import DEFAULT_SHARD_ROWS
from vault.owner import open as open_vault
from vault.publish import OpenPublication, Published, PublishOptions, begin_publication
from vault.worker import errands_of
from vault.workings.parcels import failure, unsealed

__all__ = ["SliceSource", "VersionSink", "VersionSource"]

#: A write task gets at least so many bytes of blocks, so that shards are not tiny.
_WRITE_BYTES: Final = 128 << 20
_BEAT_SECONDS: Final = 20.0
_Folder = str | os.PathLike[str]


class VersionSource(Datasource):
    """A version of a dataset as its owner reads it, in tasks of whole shards. Each task's read is in the log.

    ``vault`` is the directory, by default as `vault.open` finds it; a worker opens it at the same place, or where its
    ``DSVAULT`` says. The version is settled here, by default the newest. Raises NotFound and InvalidInput.
    """

    def __init__(
        self,
        dataset: str,
        *,
        vault: _Folder | None = None,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        version: int | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        folder = find_vault(os.fspath(vault) if vault is not None else None)
        self._place = (str(folder), Configuration.read(folder / "owner" / "config.toml").vault)
        self._dataset = dataset
        self._columns = None if columns is None else list(columns)
        self._where = where
        self._version = self._plan(1, version).version

    def _plan(self, most: int, version: int | None) -> _datasets.ScanPlan:
        parts = errands_of(*self._place).parts
        return _datasets.plan_scan(parts, self._dataset, columns=self._columns, version=version, most=most)

    def estimate_inmemory_data_size(self) -> int | None:
        """Bytes of the chunks; rows in memory are more."""
        return sum(part.bytes for part in self._plan(1, self._version).parts)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Tasks of neighbouring shards."""
        del data_context
        plan = self._plan(parallelism, self._version)
        tasks = []
        for part in plan.parts:
            options = {"columns": self._columns, "where": self._where, "version": plan.version, "shards": part.shards}
            about = BlockMetadata(part.rows if self._where is None else None, part.bytes, None)
            read = partial(_read_shards, *self._place, self._dataset, options)
            tasks.append(ReadTask(read, about, plan.schema, per_task_row_limit))
        return tasks


def _read_shards(folder: str, vault: str, dataset: str, options: Mapping[str, Any]) -> Iterator[pa.Table]:
    """The rows of some shards; no block is of two of them."""

    def reader() -> pa.RecordBatchReader:
        return _datasets.scan(errands_of(folder, vault).parts, dataset, **options)

    return _blocks(reader)


class SliceSource(Datasource):
    """What a grant gives of a dataset, through a profile, as `Dataset.scan` of the client reads it.

    It is one read, and so one task, whose blocks come as the broker hands them out; with ``parts`` that many, of the
    version that is newest here, each a read and a task of its own. Limits and the log count every row once either way,
    but for tasks that Ray runs again. ``profile`` is a file that a worker that reads finds at the same place; what it
    holds is not sent to it. Raises what `Dataset.parts` does.
    """

    def __init__(
        self,
        dataset: str,
        *,
        profile: _Folder,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        limit: int | None = None,
        grant: str | None = None,
        parts: int | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if parts is not None and limit is not None:
            raise InvalidInput("parts, limit: what is read in parts has no limit in all; give one of the two")
        self._profile = str(Path(profile).absolute())
        self._dataset = dataset
        self._options = {
            "columns": None if columns is None else list(columns),
            "where": where,
            "limit": limit,
            "grant": grant,
        }
        # Refused here rather than by a worker, where the dataset or the profile is not there.
        found = client.connect(self._profile).dataset(dataset)
        self._parts: list[dict[str, Any]] = [{}]
        if parts is not None:
            self._parts = [{"part": each.part, "version": each.version} for each in found.parts(parts, grant=grant)]

    def estimate_inmemory_data_size(self) -> int | None:
        """Nobody but the broker knows before it is read."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """A task for each part, or the one."""
        del parallelism, data_context
        about = BlockMetadata(None, None, None)
        reads = [partial(_read_slice, self._profile, self._dataset, self._options | part) for part in self._parts]
        return [ReadTask(read, about, per_task_row_limit=per_task_row_limit) for read in reads]


def _read_slice(profile: str, dataset: str, options: Mapping[str, Any]) -> Iterator[pa.Table]:
    def reader() -> pa.RecordBatchReader:
        return client.connect(profile).dataset(dataset).scan(**options)

    return _blocks(reader)


def _blocks(reader: Any) -> Iterator[pa.Table]:
    """A reader's batches; one without rows where there are none, so that the schema is known."""
    try:
        opened, none = reader(), True
        for batch in opened:
            if batch.num_rows:
                none = False
                yield pa.Table.from_batches([batch])
        if none:
            yield opened.schema.empty_table()
    except VaultError:
        raise
    except Exception as error:  # noqa: BLE001 - Ray would pass its text on, which may quote a value
        raise VaultError(failure(error)["text"]) from None


@final
class VersionSink(Datasink[tuple[int, bytes]]):
    """Publishes a Ray dataset as a version: every write task encodes its blocks, and the driver commits once.

    A task may run twice: its chunks have fresh ids each time, and the version lists those of the run that Ray counts.
    What it says of them, with statistics, is sealed. The options are those of `Vault.publish`; ``schema`` is the rows',
    by default that of the first block. Rows are in the order of Ray's tasks, which is that of the dataset where its
    context preserves order. `published` says what became of it.
    """

    def __init__(
        self,
        dataset: str,
        *,
        vault: _Folder | None = None,
        schema: pa.Schema | None = None,
        key: str | None = None,
        assign_by: str | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        shard_rows: int = DEFAULT_SHARD_ROWS,
        append: bool = False,
        evolve: bool = False,
        compression: str = "zstd",
        compression_level: int | None = None,
    ) -> None:
        self._vault = open_vault(vault)
        self._place = (str(self._vault.folder), self._vault.parts.vault)
        self._dataset = dataset
        self._schema = schema
        self._options = PublishOptions(
            key, assign_by, groups or {}, shard_rows, append, evolve, False, compression, compression_level
        )
        self._opened: _Kept | None = None
        self._order: tuple[str, int] | None = None
        self.published: Published | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What write tasks get: ids, a schema and options, and nothing of the vault that is open here."""
        return self.__dict__ | {"_vault": None, "_opened": None}

    @property
    def min_bytes_per_write(self) -> int:
        """Blocks are gathered to about a shard's worth."""
        return _WRITE_BYTES

    def on_write_start(self, schema: Any = None) -> None:
        """Begin the publish, of the schema that the rows have; raises what `publish` does of names and columns."""
        if self._schema is None:
            if not isinstance(schema, pa.Schema):
                raise InvalidInput("the blocks of the dataset have no Arrow schema; give schema=")
            self._schema = schema.remove_metadata()
        opened = begin_publication(self._vault.parts, self._dataset, self._schema, self._options)
        self._opened = _Kept(opened)
        self._order = (opened.job, opened.step)

    def write(self, blocks: Iterable[Any], ctx: Any) -> tuple[int, bytes]:
        """Encode some blocks on a worker; returns the task's number, and what was put, sealed.

        Raises Unavailable, which Ray Data may try again. Whatever else goes wrong is returned, and fails the commit.
        """
        assert self._order is not None
        number = int(ctx.task_idx)
        try:
            errands = errands_of(*self._place)
            tables = (BlockAccessor.for_block(block).to_arrow() for block in blocks)
            reply = errands.rows(*self._order, number, tables)
            errands.parts.catalog.settle()
        except Unavailable:
            raise Unavailable("the store, the catalog or the KMS could not be reached") from None
        except Exception as error:  # noqa: BLE001 - Ray would send it on as it is
            return number, unsealed(error)
        return number, reply

    def on_write_complete(self, write_result: Any) -> None:
        """Commit what the tasks put; raises what `publish` does, and then nothing was published."""
        if self._opened is None:
            raise InvalidInput("the dataset has no block, and so nothing that could be published")
        opened = self._opened.let_go()
        for number, reply in sorted(write_result.write_returns, key=lambda each: int(each[0])):
            opened.take(number, reply)
        self.published = opened.commit()
        self._opened = None

    def on_write_failed(self, error: Exception) -> None:
        """Leave nothing of it but what gc removes."""
        del error
        if self._opened is not None:
            self._opened.let_go().abandon()
            self._opened = None

    def get_name(self) -> str:
        """How Ray Data calls the write tasks."""
        return "DsvaultVersion"


@final
class _Kept:
    """A publication whose job says that it lives, while tasks elsewhere work for it."""

    def __init__(self, opened: OpenPublication) -> None:
        self._opened = opened
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="dsvault-beat", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._done.wait(_BEAT_SECONDS):
            try:
                self._opened.beat()
            except Unavailable:
                continue
            except VaultError:
                return  # gc has ended it: the commit says so

    def let_go(self) -> OpenPublication:
        """The publication, for who ends it."""
        self._done.set()
        self._thread.join()
        return self._opened
