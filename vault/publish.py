"""Publishing: a stream of record batches becomes an immutable version.

Rows are encoded once, into the owner's compartment, and each chunk is copied from memory into the
compartments of the vendors whose live grants need it. Objects come first, then the manifests, then one
catalog transaction; until that commits nobody can see anything of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import pyarrow as pa

from vault.catalog import CompartmentRow
from vault.chunks import unsupported
from vault.encoding import new_id
from vault.errors import Conflict, InvalidInput, NotFound
from vault.model import Column, check_column_names, check_name
from vault.sources import Source as RowSource
from vault.sources import open_source
from vault.workings.carrying import Carried, Replacement, carried_columns, renamed_columns
from vault.workings.columns import plan_columns
from vault.workings.errands import read_encoded
from vault.workings.jobs import Job, begin_job
from vault.workings.names import Dataset, find_dataset, holders
from vault.workings.parcels import Parcels, outcome
from vault.workings.parts import OwnerParts
from vault.workings.publication import Committed, Plan, Publication, Published, PublishOptions
from vault.workings.versions import open_version

__all__ = [
    "Joined",
    "OpenPublication",
    "PublishOptions",
    "Published",
    "begin_publication",
    "join_columns",
    "publish",
    "rename",
]


def publish(
    parts: OwnerParts,
    name: str,
    source: object,
    options: PublishOptions,
    progress: Callable[[int, int | None], None] = lambda _done, _total: None,
) -> Published:
    """Publish a new version of a dataset, which is made where there is none of that name.

    ``progress`` is called with (bytes or rows read, total if known). Raises InvalidInput, Conflict,
    Unavailable or KmsError; then nothing was published.
    """
    check_name(name, "dataset")
    if options.evolve and not options.append:
        raise InvalidInput(
            "--evolve: it goes with --append; without that a version has just the columns that it is given"
        )
    if options.columns_only:
        return _publish_columns(parts, name, source, options, progress)
    plan = _of_the_lab(_plan(parts, name, options), options)
    schema = plan.previous.manifest.schema if options.append else None
    with open_source(source, schema=schema, evolve=options.evolve) as rows:
        columns = _columns(plan, rows.schema, options)
        carried = Carried(plan.previous, columns, rows.schema) if options.append else None
        return _run(parts, plan, columns, rows.schema, options, carried, rows, progress)


@dataclass(frozen=True, slots=True)
class Joined:
    """Columns to be joined to the newest version by its row key; rows that they say nothing of are null there.

    Of those in ``fill``, which are there already, only nulls get values. ``committed`` is called in the transaction
    that makes the version, with its number and all its columns: what it raises undoes both.
    """

    table: pa.Table
    fill: frozenset[str]
    committed: Committed


def join_columns(parts: OwnerParts, name: str, version: int, joined: Joined) -> Published:
    """A version with the rows of the newest one, which has to be ``version``, and columns joined to it.

    Raises InvalidInput, Conflict also where there is a newer version by now, and what `publish` does; then nothing was
    published.
    """
    options = PublishOptions(columns_only=True)
    plan = _plan(parts, name, options)
    present, key = plan.previous, plan.dataset.key
    if present.manifest.version != version or key is None:
        raise Conflict("the dataset was changed by somebody else in the meantime; try again")
    replacement = Replacement(parts, present, key, joined.table, joined.fill)
    return _run_replacement(parts, plan, replacement, options, joined.committed)


def _run(
    parts: OwnerParts,
    plan: Plan,
    columns: tuple[Column, ...],
    schema: pa.Schema,
    options: PublishOptions,
    carried: Carried | None,
    rows: RowSource | None,
    progress: Callable[[int, int | None], None],
    committed: Committed | None = None,
) -> Published:
    job = begin_job(parts.catalog, "publish", parts.clock)
    try:
        publication = Publication(parts, plan, job, columns, schema, options, carried, committed)
        return publication.run(rows, progress)
    except BaseException:
        job.abandon()
        raise


def _publish_columns(
    parts: OwnerParts,
    name: str,
    source: object,
    options: PublishOptions,
    progress: Callable[[int, int | None], None],
) -> Published:
    """A version with the rows of the newest one, and the source's columns added or put in the place of theirs."""
    allowed = PublishOptions(
        shard_rows=options.shard_rows,
        columns_only=True,
        compression=options.compression,
        compression_level=options.compression_level,
    )
    if options != allowed:
        raise InvalidInput("--columns-only: the rows stay as they are, so no other option goes with it")
    plan = _plan(parts, name, options)
    if plan.present is None:
        raise InvalidInput("--columns-only: the dataset has no version whose rows could get columns")
    with open_source(source) as rows:
        check_column_names(rows.schema.names, "the source")
        table = pa.Table.from_batches(list(rows.batches()), rows.schema)
    key = plan.dataset.key
    if key is not None and key not in table.column_names:
        raise InvalidInput(f"--columns-only: the source lacks the column {key!r}, which identifies rows")
    if key is None and plan.dataset.assign_by is not None:
        raise InvalidInput("--columns-only: rows that are assigned to vendors have no order; publish with --key first")
    replacement = Replacement(parts, plan.present, key, table)
    return _run_replacement(parts, plan, replacement, options, None, progress)


def _run_replacement(
    parts: OwnerParts,
    plan: Plan,
    replacement: Replacement,
    options: PublishOptions,
    committed: Committed | None,
    progress: Callable[[int, int | None], None] = lambda _done, _total: None,
) -> Published:
    """A version with the rows of the newest one and columns of a replacement; ``committed`` is of a submission's."""
    _check_replaceable(plan, replacement)
    present = plan.previous
    schema = _with_columns(present.manifest.schema, replacement.schema)
    check_column_names(schema.names, "the version")
    unsupported(schema)
    columns = carried_columns(present.manifest, schema)
    fresh = {column.id for column in columns if column.name in replacement.names}
    returned = set(plan.dataset.returned) - fresh if committed is None else set(plan.dataset.returned) | fresh
    plan = replace(plan, dataset=replace(plan.dataset, returned=tuple(sorted(returned))))
    carried = Carried(present, columns, schema, replacement)
    return _run(parts, plan, columns, schema, options, carried, None, progress, committed)


def _of_the_lab(plan: Plan, options: PublishOptions) -> Plan:
    """Where every row comes from the lab, so does every column, whatever one of its name was before."""
    return plan if options.append else replace(plan, dataset=replace(plan.dataset, returned=()))


def _check_replaceable(plan: Plan, replacement: Replacement) -> None:
    if not replacement.names:
        raise InvalidInput("--columns-only: the source has no column beside the row key")
    if plan.dataset.assign_by in replacement.names:
        raise InvalidInput(f"--columns-only: the column {plan.dataset.assign_by!r} says whose rows they are")


def _with_columns(schema: pa.Schema, fresh: pa.Schema) -> pa.Schema:
    fields = [fresh.field(each.name) if each.name in fresh.names else each for each in schema]
    return pa.schema([*fields, *(each for each in fresh if each.name not in schema.names)], metadata=schema.metadata)


def rename(parts: OwnerParts, name: str, old: str, new: str) -> Published:
    """A version in which a column has another name; its id stays, so grants, chunks and filters hold on.

    Raises NotFound, InvalidInput and Conflict.
    """
    plan = _plan(parts, name, PublishOptions())
    if plan.present is None:
        raise NotFound(f"there is no dataset named '{name[:80]}'")
    if plan.present.manifest.column(old) is None:
        raise InvalidInput(f"the dataset has no column {old!r}")
    columns, schema = renamed_columns(plan.present.manifest, old, new, parts.clock())
    check_column_names(schema.names, "the version")
    key, assign_by = (new if each == old else each for each in (plan.dataset.key, plan.dataset.assign_by))
    plan = replace(plan, dataset=replace(plan.dataset, key=key, assign_by=assign_by))
    carried = Carried(plan.previous, columns, schema)
    return _run(parts, plan, columns, schema, PublishOptions(), carried, None, lambda _done, _total: None)


def _plan(parts: OwnerParts, name: str, options: PublishOptions) -> Plan:
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        found = find_dataset(transaction, sealer, name)
        row = transaction.compartment(parts.owner, found.id) if found else None
        people = {holder.id: holder for holder in holders(transaction, sealer)}
    present = open_version(parts, parts.keyring, row) if row else None
    dataset = _settings(found, options, name)
    compartment = row or CompartmentRow(new_id(), parts.owner, dataset.id)
    owner = people.pop(parts.owner)
    return Plan(dataset, found is None, compartment, owner, people, present)


def _settings(found: Dataset | None, options: PublishOptions, name: str) -> Dataset:
    if not options.append or found is None:
        # A forgotten option must not give every row to every vendor: what was said once holds until it is ended.
        key = options.key if options.key is not None else (found.key if found else None)
        assign_by = options.assign_by if options.assign_by is not None else (found.assign_by if found else None)
        if found is None:
            return Dataset(new_id(), name, key or None, assign_by or None)
        return replace(found, key=key or None, assign_by=assign_by or None)
    for option, wanted, present in (
        ("--key", options.key, found.key),
        ("--assign-by", options.assign_by, found.assign_by),
    ):
        if wanted is not None and wanted != present:
            raise InvalidInput(f"{option}: an append keeps what the dataset was published with")
    if options.groups:
        raise InvalidInput("--group: an append keeps the column groups that the dataset was published with")
    return found


def _columns(plan: Plan, schema: pa.Schema, options: PublishOptions) -> tuple[Column, ...]:
    if options.append:
        check_column_names(schema.names, "the source")
        unsupported(schema)
        return carried_columns(plan.previous.manifest, schema)
    if not schema.names:
        raise InvalidInput("the source has no columns")
    check_column_names(schema.names, "the source")
    unsupported(schema)
    if options.shard_rows < 1:
        raise InvalidInput("--shard-rows: give at least 1")
    for option, name in (("--key", plan.dataset.key), ("--assign-by", plan.dataset.assign_by)):
        if name is not None and name not in schema.names:
            raise InvalidInput(
                f"{option}: the source has no column {name!r}, which the dataset is published by; "
                f"--no-{option[2:]} ends that"
            )
    return plan_columns(schema, options.groups, plan.present.manifest if plan.present else None)


@final
class OpenPublication:
    """A publish whose rows others bring, in any number of runs: `begin_publication` opens it, and `commit` or `abandon`
    ends it. ``job`` and ``step`` are what those need to know (`vault.workings.errands.Errands.rows`).
    """

    def __init__(self, parts: OwnerParts, publication: Publication, job: Job) -> None:
        self._parts = parts
        self._publication = publication
        self._job = job
        self._staged = publication.staged()
        self.job = job.id
        self.step = job.write_down(parts.sealer(), publication.order().document())

    def beat(self) -> None:
        """Say that it lives; called now and then, or gc ends it. Raises Conflict once that has happened."""
        self._job.beat()

    def take(self, number: int, reply: bytes) -> None:
        """What became of the next run, as it was sealed under its number; raises IntegrityError and InvalidInput."""
        document = outcome(Parcels(self._parts, self.job, self.step).open_result(number, reply))
        self._staged.take(read_encoded(document))

    def commit(self) -> Published:
        """Make it one version. Raises what a publish does, and then nothing was published."""
        try:
            return self._publication.finish(self._staged.end())
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Leave nothing of it but garbage."""
        self._job.abandon()


def begin_publication(parts: OwnerParts, name: str, schema: pa.Schema, options: PublishOptions) -> OpenPublication:
    """Begin a publish of rows of a schema that others will bring. Raises what `publish` does of names and columns."""
    if options.columns_only:
        raise InvalidInput("--columns-only: rows that come in runs cannot be put beside those that are there")
    check_name(name, "dataset")
    plan = _of_the_lab(_plan(parts, name, options), options)
    before = plan.previous.manifest.schema if options.append else None
    with open_source(schema.empty_table(), schema=before, evolve=options.evolve) as rows:
        columns = _columns(plan, rows.schema, options)
        carried = Carried(plan.previous, columns, rows.schema) if options.append else None
        job = begin_job(parts.catalog, "publish", parts.clock)
        try:
            publication = Publication(parts, plan, job, columns, rows.schema, options, carried)
            publication.begin()
            return OpenPublication(parts, publication, job)
        except BaseException:
            job.abandon()
            raise
