"""What vendors sent back, as its owner sees it: looking into the quarantine, taking over, and refusing.

Nothing that a broker, a store or the catalog says of a submission is believed. Its envelope has to be signed by the key
of a credential that the authority signed and that was live when it came, its secret has to open under a key of the
owner's for just that vendor, credential, grant and version, and every row that it names has to be one that the grant
showed. Only then do its columns become those of a new version, in the one transaction that also says that it was
accepted: a run that is killed has accepted it once or not at all.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from vault.audit import Kind
from vault.catalog import WAITING, SealedValue, SubmissionRow, Transaction
from vault.chunks import unsupported
from vault.compact import chosen
from vault.encoding import from_json, from_timestamp, json_bytes, timestamp
from vault.errors import Conflict, IntegrityError, InvalidInput, NotFound
from vault.incoming import check_keys, check_labels
from vault.model import Column, check_column_names
from vault.publish import Joined, join_columns
from vault.submission import open_envelope
from vault.vouching import Vouched, shown, vouched
from vault.workings.filling import owners_version
from vault.workings.names import Dataset, datasets, holders
from vault.workings.parts import OwnerParts
from vault.workings.reading import read_column
from vault.workings.steps import vendor_named
from vault.workings.versions import OpenVersion

__all__ = [
    "ACCEPTED",
    "REJECTED",
    "Accepted",
    "SubmissionDetail",
    "SubmissionState",
    "accept",
    "reject",
    "reject_all",
    "reject_waiting",
    "submission",
    "submissions",
]

ACCEPTED: Final = "accepted"
REJECTED: Final = "rejected"
_TRIES: Final = 5
_LONGEST_REASON: Final = 1000


@dataclass(frozen=True, slots=True)
class SubmissionState:
    """A submission in a list: ``waiting``, ``accepted`` or ``rejected``, with what was noted of it then.

    ``rows`` is what its envelope says, 0 where that cannot be read. ``version`` is the one that it became. ``doubt``
    says what of its row dsvault does not write: who has a broker's database role can add rows.
    """

    id: str
    vendor: str
    dataset: str
    grant: str
    rows: int
    size: int
    received: str
    state: str
    settled: str | None
    reason: str | None
    version: int | None
    doubt: str | None = None


@dataclass(frozen=True, slots=True)
class SubmissionDetail:
    """A submission that was opened: its table, through whose hands it came, and what keeps it from being accepted."""

    state: SubmissionState
    key: str
    table: pa.Table = field(repr=False)
    delegates: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a submission: the version, its columns there, how many rows have values from it.

    ``gone`` counts its rows that the newest version does not have any more, ``kept`` those whose value was there
    already.
    """

    id: str
    dataset: str
    version: int
    columns: tuple[str, ...]
    rows: int
    gone: int
    kept: int


def submissions(parts: OwnerParts, vendor_name: str | None = None) -> list[SubmissionState]:
    """Every submission, or those of one vendor, oldest first. Nothing of them is opened."""
    wanted = vendor_named(parts, vendor_name).id if vendor_name is not None else None
    with parts.catalog.read() as transaction:
        rows = transaction.submissions(vendor=wanted)
        names = _Names.read(parts, transaction)
    return [names.state(row) for row in rows]


@dataclass(frozen=True, slots=True)
class _Names:
    """What holders and datasets are called, and what opens the owner's notes."""

    parts: OwnerParts
    vendors: Mapping[str, str]
    datasets: Mapping[str, Dataset]

    @classmethod
    def read(cls, parts: OwnerParts, transaction: Transaction) -> "_Names":
        sealer = parts.sealer()
        vendors = {holder.id: holder.name for holder in holders(transaction, sealer)}
        return cls(parts, vendors, {each.id: each for each in datasets(transaction, sealer, deleted_too=True)})

    def state(self, row: SubmissionRow) -> SubmissionState:
        """A row in words; what it names and is not there shows by its id, and what cannot be understood is told."""
        rows, note = 0, {}
        doubts = [f"its state is {row.state[:80]!r}"] if row.state not in {WAITING, ACCEPTED, REJECTED} else []
        try:
            rows = open_envelope(row.envelope.decode("ascii", "replace"))[1].rows
        except InvalidInput:
            doubts.append("its envelope is none")
        try:
            note = _note(self.parts, row)
        except IntegrityError:
            doubts.append("its note does not open")
        for what, time in (("received", row.received), ("settled", row.settled)):
            if time is not None and not _is_time(time):
                doubts.append(f"it was {what} at no time")
        dataset = self.datasets.get(row.dataset)
        return SubmissionState(
            id=row.id,
            vendor=self.vendors.get(row.vendor, row.vendor),
            dataset=dataset.name if dataset is not None else row.dataset,
            grant=row.grant,
            rows=rows,
            size=row.size,
            received=row.received,
            state=row.state,
            settled=row.settled,
            reason=note.get("reason"),
            version=note.get("version"),
            doubt=", ".join(doubts) or None,
        )


def _is_time(text: str) -> bool:
    try:
        from_timestamp(text)
    except IntegrityError:
        return False
    return True


def _place(row: SubmissionRow) -> str:
    """What a note is sealed to."""
    return f"{row.vendor}/{row.id}"


def _note(parts: OwnerParts, row: SubmissionRow) -> dict[str, Any]:
    if row.note is None:
        return {}
    found: dict[str, Any] = from_json(row.note.open(parts.sealer(), _place(row)), "a note of a submission")
    return found


def _row(parts: OwnerParts, identity: str, vendor_name: str | None = None) -> tuple[SubmissionRow, _Names]:
    """A submission by its id, or that of one vendor; raises NotFound, and Conflict where two vendors' have it.

    Ids are random: a second one of another vendor is a copy that a broker's role has put there.
    """
    wanted = vendor_named(parts, vendor_name).id if vendor_name is not None else None
    with parts.catalog.read() as transaction:
        rows = transaction.submissions(vendor=wanted, submission=identity)
        names = _Names.read(parts, transaction)
    if not rows:
        raise NotFound(f"there is no submission {identity[:80]}")
    waiting = [row for row in rows if row.state == WAITING] or rows
    if len(waiting) > 1:
        raise Conflict(f"more than one vendor sent a submission of the id {identity[:80]}; say whose with --vendor")
    return waiting[0], names


def _waiting(row: SubmissionRow) -> None:
    if row.state != WAITING:
        raise Conflict(f"the submission {row.id} was {row.state} already")


def submission(parts: OwnerParts, identity: str, vendor_name: str | None = None) -> SubmissionDetail:
    """Open a submission and check it as `accept` does, without taking anything over.

    Raises NotFound, IntegrityError where it is not what a vendor signed for its grant, and InvalidInput where it cannot
    be decoded. What is wrong with its rows or columns is told instead.
    """
    row, names = _row(parts, identity, vendor_name)
    found = vouched(parts, row)
    problem = None
    try:
        _checked(parts, found, _present(names, row), {}, merge=True)
    except (InvalidInput, Conflict) as error:
        problem = str(error)
    delegates = tuple(link.to for link in found.links)
    return SubmissionDetail(names.state(row), found.particulars.key, found.table, delegates, problem)


def _present(names: _Names, row: SubmissionRow) -> Dataset:
    dataset = names.datasets.get(row.dataset)
    if dataset is None:
        raise IntegrityError("the catalog lacks the dataset of a submission")
    if dataset.deleted:
        raise Conflict(f"the dataset '{dataset.name}' was deleted, so that nothing can be added to it: reject it")
    return dataset


def accept(
    parts: OwnerParts,
    identity: str,
    rename: Mapping[str, str] | None = None,
    *,
    merge: bool = False,
    vendor_name: str | None = None,
) -> Accepted:
    """Take a submission's columns over as columns of a new version, which shares every other chunk.

    ``rename`` gives columns other names. ``merge`` fills, in columns that came from submissions, the rows that have no
    value yet; without it every name has to be new. No vendor is granted what was added. Raises NotFound, Conflict for
    one that was settled before, IntegrityError for what was not signed for its grant, and InvalidInput naming the row
    or column at fault; then nothing was changed.
    """
    for _ in range(_TRIES):
        row, names = _row(parts, identity, vendor_name)
        _waiting(row)
        try:
            dataset = _present(names, row)
            found = vouched(parts, row)
            ready = _checked(parts, found, dataset, rename or {}, merge=merge)
        except (Conflict, InvalidInput):
            # By now another may have accepted it, whose columns are in the way.
            _waiting(_row(parts, identity, vendor_name)[0])
            raise
        with suppress(Conflict):
            return _join(parts, row, names.vendors[row.vendor], found, dataset, ready)
    raise Conflict(f"the dataset '{dataset.name}' kept changing while the submission was taken over; try again")


@dataclass(frozen=True, slots=True)
class _Ready:
    """What is joined to which version, and what is counted."""

    version: int
    table: pa.Table
    fill: frozenset[str]
    gone: int


def _checked(parts: OwnerParts, found: Vouched, dataset: Dataset, rename: Mapping[str, str], *, merge: bool) -> _Ready:
    """The columns of a submission as they fit the newest version; raises InvalidInput and Conflict."""
    table = _named(found, rename)
    table, sent = chosen(table, _rows_left(parts, found, dataset)), table.num_rows
    present = owners_version(parts, dataset)
    key = dataset.key
    if key is None:
        raise Conflict(f"the dataset '{dataset.name}' has no row key any more: publish it with --key first")
    table = table.rename_columns([key, *table.column_names[1:]])
    schema = present.manifest.schema
    fill = frozenset(name for name in table.column_names[1:] if name in schema.names)
    if fill and not merge:
        name = min(fill)
        raise InvalidInput(f"the dataset has a column {name!r} already: --rename {name}=NAME gives it another name")
    _check_fill(parts, dataset, present.manifest.columns, fill)
    for name in sorted(fill):
        if schema.field(name).type != table.schema.field(name).type:
            raise InvalidInput(
                f"the column {name!r} is {schema.field(name).type} in the dataset, and {table.schema.field(name).type} "
                "in the submission"
            )
    check_column_names([*schema.names, *(name for name in table.column_names[1:] if name not in fill)], "the version")
    kind = schema.field(key).type
    try:
        keys = table.column(key).cast(kind)
    except (pa.ArrowException, ValueError) as error:
        raise InvalidInput(f"the row key is {table.schema.field(key).type}, and {kind} in the dataset") from error
    table = table.set_column(0, pa.field(key, kind), keys)
    left = chosen(table, pc.is_in(keys, value_set=_keys(parts, present, key, kind)))
    if not left.num_rows:
        raise Conflict("the newest version has none of the rows of the submission any more: reject it")
    return _Ready(present.manifest.version, left, fill, sent - left.num_rows)


def _named(found: Vouched, rename: Mapping[str, str]) -> pa.Table:
    """The table with the names that its columns are to have; raises InvalidInput."""
    table = found.table
    labels = table.column_names[1:]
    for old in rename:
        if old not in labels:
            raise InvalidInput(f"--rename: the submission has no column {old!r} beside its row key")
    fresh = [rename.get(name, name) for name in labels]
    check_column_names(fresh, "--rename" if rename else "the submission")
    unsupported(table.schema)
    check_labels(table)
    return table.rename_columns([table.column_names[0], *fresh])


def _rows_left(parts: OwnerParts, found: Vouched, dataset: Dataset) -> pa.ChunkedArray:
    """Which rows of a submission name one that was shown and is there.

    Raises InvalidInput, naming the row, for a row key that is null, stands twice, or was not shown. One that is not in
    the version at all may have been shown and erased since, where rows were.
    """
    keys, known = found.table.column(0), shown(parts, found, dataset)
    if keys.type != known.keys.type:
        raise InvalidInput(f"the row key is {keys.type}, and {known.keys.type} in the dataset")
    check_keys(keys, found.particulars.key)
    left = pc.is_in(keys, value_set=known.keys.combine_chunks())
    wrong = pc.invert(left)
    if not known.complete:
        wrong = pc.and_(wrong, pc.is_in(keys, value_set=known.there.combine_chunks()))
    if pc.any(wrong).as_py():
        row = pc.index(wrong, True).as_py() + 1
        raise InvalidInput(f"row {row} of the submission names a row that the grant did not show")
    return left


def _check_fill(parts: OwnerParts, dataset: Dataset, columns: tuple[Column, ...], fill: frozenset[str]) -> None:
    """Raise InvalidInput for a column that did not come from submissions: no vendor writes into the lab's own."""
    if not fill:
        return
    with parts.catalog.read() as transaction:
        rows = [row for row in transaction.submissions(dataset=dataset.id) if row.state == ACCEPTED]
    came: set[object] = set()
    for row in rows:
        with suppress(IntegrityError):  # a note that the owner did not seal makes no column one that may be filled
            ids = _note(parts, row).get("columns")
            came.update(ids if isinstance(ids, list) else ())
    for column in columns:
        if column.name in fill and column.id not in came:
            raise InvalidInput(
                f"the column {column.name!r} of the dataset did not come from a submission, so that none can fill it: "
                f"--rename {column.name}=NAME gives the new one another name"
            )


def _keys(parts: OwnerParts, version: OpenVersion, key: str, kind: pa.DataType) -> pa.Array:
    pieces = [chunk for column in read_column(parts, version, key) for chunk in column.chunks]
    return pa.chunked_array(pieces, kind).combine_chunks()


def _join(
    parts: OwnerParts, row: SubmissionRow, vendor: str, found: Vouched, dataset: Dataset, ready: _Ready
) -> Accepted:
    names = frozenset(ready.table.column_names[1:])
    kept = _already(parts, dataset, ready)

    def committed(transaction: Transaction, version: int, columns: tuple[Column, ...]) -> None:
        ids = [column.id for column in columns if column.name in names]
        note = {"version": version, "columns": ids, "reason": None}
        told = {"version": version, "columns": sorted(names), "column_ids": ids, "gone": ready.gone, "kept": kept}
        about = {**told, "rows": ready.table.num_rows, "of_version": found.envelope.version}
        _settle(parts, transaction, row, vendor, dataset, ACCEPTED, Kind.SUBMISSION_ACCEPTED, note, about)

    done = join_columns(parts, dataset.name, ready.version, Joined(ready.table, ready.fill, committed))
    columns = tuple(ready.table.column_names[1:])
    return Accepted(row.id, dataset.name, done.version, columns, ready.table.num_rows, ready.gone, kept)


def _already(parts: OwnerParts, dataset: Dataset, ready: _Ready) -> int:
    """How many values of columns that are filled are there already, and stay."""
    if not ready.fill or dataset.key is None:
        return 0
    version, named, kept = owners_version(parts, dataset, ready.version), ready.table.column(0).combine_chunks(), 0
    for name in ready.fill:
        for keys, values in zip(
            read_column(parts, version, dataset.key), read_column(parts, version, name), strict=True
        ):
            both = pc.and_(pc.is_in(keys, value_set=named), pc.is_valid(values))
            kept += pc.sum(both).as_py() or 0
    return kept


def _settle(
    parts: OwnerParts,
    transaction: Transaction,
    row: SubmissionRow,
    vendor: str,
    dataset: Dataset,
    state: str,
    kind: Kind,
    note: Mapping[str, object],
    told: Mapping[str, object],
) -> None:
    """Take a submission out of quarantine, with the entry that says so; raises Conflict where somebody else did."""
    sealed = SealedValue(parts.sealer(), _place(row), json_bytes(dict(note)))
    if not transaction.settle_submission(row.vendor, row.id, state, timestamp(parts.clock()), sealed):
        raise Conflict(f"the submission {row.id} was settled by somebody else in the meantime")
    parts.journal.record_in(
        transaction,
        kind,
        vendor=vendor,
        vendor_id=row.vendor,
        submission=row.id,
        grant=row.grant,
        dataset=dataset.name,
        dataset_id=row.dataset,
        **told,
    )


def reject(parts: OwnerParts, identity: str, reason: str, vendor_name: str | None = None) -> SubmissionState:
    """Refuse a submission; gc removes its object. It need not be one that can be opened. The vendor is told nothing.

    Raises NotFound, Conflict for one that was settled before, and InvalidInput for a reason that is none.
    """
    _check_reason(reason)
    row, names = _row(parts, identity, vendor_name)
    _waiting(row)
    return _refused(parts, names, [row], reason)[0]


def reject_waiting(parts: OwnerParts, vendor_name: str, reason: str) -> list[SubmissionState]:
    """Refuse all that waits of a vendor, in one change; none where nothing does.

    Raises NotFound, InvalidInput for a reason that is none, and Conflict where another settled some of it at the same
    time; then nothing was changed.
    """
    _check_reason(reason)
    wanted = vendor_named(parts, vendor_name).id
    with parts.catalog.read() as transaction:
        rows = [row for row in transaction.submissions(vendor=wanted) if row.state == WAITING]
        names = _Names.read(parts, transaction)
    return _refused(parts, names, rows, reason) if rows else []


def _check_reason(reason: str) -> None:
    if not reason.strip() or len(reason) > _LONGEST_REASON or not reason.isprintable():
        raise InvalidInput(f"--reason: give 1 to {_LONGEST_REASON} printable characters; the log keeps them")


def _refused(parts: OwnerParts, names: _Names, rows: Sequence[SubmissionRow], reason: str) -> list[SubmissionState]:
    with parts.catalog.write() as transaction:
        for row in rows:
            dataset = names.datasets.get(row.dataset) or Dataset(row.dataset, row.dataset, None, None)
            _refuse(parts, transaction, row, names.vendors.get(row.vendor, row.vendor), dataset, reason)
    parts.journal.checkpoint()
    ids = {(row.vendor, row.id) for row in rows}
    with parts.catalog.read() as transaction:
        after = transaction.submissions(vendor=rows[0].vendor)
    return [names.state(row) for row in after if (row.vendor, row.id) in ids]


def _refuse(
    parts: OwnerParts, transaction: Transaction, row: SubmissionRow, vendor: str, dataset: Dataset, reason: str
) -> None:
    note: dict[str, object] = {"version": None, "columns": [], "reason": reason}
    _settle(parts, transaction, row, vendor, dataset, REJECTED, Kind.SUBMISSION_REJECTED, note, {"reason": reason})


def reject_all(parts: OwnerParts, transaction: Transaction, dataset: Dataset, vendors: Mapping[str, str]) -> int:
    """Refuse what waits for a dataset that is being deleted, in the very transaction; how many there were."""
    waiting = [row for row in transaction.submissions(dataset=dataset.id) if row.state == WAITING]
    for row in waiting:
        _refuse(parts, transaction, row, vendors.get(row.vendor, row.vendor), dataset, "the dataset was deleted")
    return len(waiting)
