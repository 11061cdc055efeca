"""What a report shows in tables, the same on a page and in text: rows of cells, of which a person can read so many."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vault.exposure import Cells, Exposure, Part, Returned, RowSet, Span
from vault.incident.wording import amounts, count, harmless, masked, moment, moment_or, plural, size

__all__ = ["Table", "tables"]

#: More rows than this nobody reads; the JSON has them all.
_MOST_ROWS: Final = 200
_MOST_RANGES: Final = 8


@dataclass(frozen=True, slots=True)
class Table:
    """A table: what it is called, what it says, its headings and rows, and how many rows were left out."""

    title: str
    about: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int


def _table(title: str, about: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    made = [tuple(harmless(cell) for cell in row) for row in rows]
    return Table(title, about, tuple(headings), tuple(made[:_MOST_ROWS]), max(0, len(made) - _MOST_ROWS))


def tables(found: Exposure) -> list[Table]:
    """All tables, the most important first."""
    return [
        _datasets(found),
        _columns(found),
        _hands(found),
        _returned(found),
        _bounds(found),
        _could(found),
        _grants(found),
        _credentials(found),
        _shared(found),
        _data_keys(found),
        _chunk_keys(found),
        _refused(found),
        _events(found),
    ]


def _datasets(found: Exposure) -> Table:
    names = {part.dataset_id: part.dataset for part in found.parts} | {f.dataset_id: f.dataset for f in found.flows}
    rows = []
    for identity, name in sorted(names.items(), key=lambda item: item[1]):
        parts = [part for part in found.parts if part.dataset_id == identity]
        cells = found.counted.get(identity, Cells())
        of = found.datasets.get(identity)
        versions = sorted({part.version for part in parts if part.exact or part.bound})
        if of is not None:
            rows.append((name, ", ".join(map(str, versions)), count(cells.exact), count(cells.at_most), amounts(of)))
    return _table(
        "Datasets",
        "Cells are rows of columns, each counted once, a struct with its fields. Rows and bytes count as often as "
        "they left.",
        ("dataset", "versions", "cells exactly", "at most more", "deliveries"),
        rows,
    )


def _ranges(rows: RowSet) -> str:
    if not rows:
        return "none"
    total, few = rows.count, rows.first_ranges(_MOST_RANGES)
    shown = sum(last - first + 1 for first, last in few)
    text = ", ".join(f"{first}" if first == last else f"{first}–{last}" for first, last in few)
    return f"{plural(total, 'row')}: {text}{', …' if shown < total else ''}"


def _version(part: Part) -> str:
    if part.contested:
        return f"{part.version}, in doubt" + (f", as told {plural(part.state + 1, 'time')}" if part.state else "")
    return f"{part.version}" + (f" after {plural(part.state, 'erasure')}" if part.state else "")


class _Contents:
    """What sets of rows hold, in few bytes; many columns have the very same set."""

    def __init__(self) -> None:
        self._known: dict[int, bytes] = {}

    def of(self, rows: RowSet) -> bytes:
        """The content of a set that outlives this."""
        if id(rows) not in self._known:
            self._known[id(rows)] = rows.content
        return self._known[id(rows)]


def _columns(found: Exposure) -> Table:
    # Columns that were read together have the same rows: they are told together.
    groups: dict[tuple[Any, ...], list[Part]] = {}
    content = _Contents()
    for part in found.parts:
        if part.exact or part.bound:
            mask = masked(part)
            key = (part.dataset_id, part.version, part.state, mask, content.of(part.exact), content.of(part.bound))
            groups.setdefault(key, []).append(part)
    return _table(
        "Served, by column",
        "Rows are numbered from 0 as they lay in the version when they were read: an erasure moves the rows behind "
        "those that it takes. Exact is what complete reads were of. At most is what may have been served beside it: "
        "rows of reads that broke off and may not have arrived, all that a read without an end may have had, every "
        "row of the chunks whose keys were handed out in leases, and every row of a shared file that was read, also "
        "in part.",
        ("dataset", "version", "columns", "masked", "exactly", "at most more", "first", "last"),
        (
            (
                members[0].dataset,
                _version(members[0]),
                ", ".join(part.column for part in members),
                masked(members[0]),
                _ranges(members[0].exact),
                _ranges(members[0].bound),
                moment_or(min((p.first for p in members if p.first is not None), default=None), ""),
                moment_or(max((p.last for p in members if p.last is not None), default=None), ""),
            )
            for members in groups.values()
        ),
    )


def _hands(found: Exposure) -> Table:
    hands: dict[tuple[Any, ...], list[Any]] = {}
    for flow in found.flows:
        who = flow.who
        key = who.credential, who.delegates, who.subject, who.address, who.grant, who.purpose
        hands.setdefault(key, []).append(flow)
    rows = []
    for (credential, delegates, subject, address, grant, purpose), flows in hands.items():
        of = [flow.amounts for flow in flows]
        rows.append(
            (
                credential,
                " → ".join(f"{name} ({identity})" for identity, name in delegates),
                subject or "",
                address,
                grant,
                purpose or "",
                ", ".join(sorted({flow.dataset for flow in flows})),
                count(sum(each.reads for each in of)),
                count(sum(each.rows for each in of)),
                count(sum(each.bound_rows for each in of)),
                moment(min(flow.first for flow in flows)),
                moment(max(flow.last for flow in flows)),
            )
        )
    return _table(
        "Whose hands",
        "By which credential, through which delegates and for whom a delivery went, and from which address.",
        ("credential", "delegates", "subject", "address", "grant", "purpose", "datasets", "complete reads", "rows",
         "rows at most more", "first", "last"),
        rows,
    )  # fmt: skip


def _returned(found: Exposure) -> Table:
    return _table(
        "What it sent back",
        "Submissions, by when they were received, and what became of them as the log says. What was accepted is in the "
        "versions that are named, and in whatever was made of those.",
        ("submission", "dataset", "of version", "grant", "credential", "delegates", "address", "rows", "size",
         "received", "state"),
        (
            (
                each.submission,
                each.dataset,
                each.of_version if each.of_version is not None else "",
                each.grant,
                each.credential or "",
                " → ".join(f"{name} ({identity})" for identity, name in each.delegates),
                each.address or "",
                count(each.rows) if each.rows is not None else "not in the log",
                size(each.bytes) if each.bytes is not None else "",
                moment_or(each.received, "not in the log"),
                _became(each),
            )
            for each in reversed(found.returned)
        ),
    )  # fmt: skip


def _became(each: Returned) -> str:
    if each.version is None:
        return f"{each.state}{f' {moment(each.settled)}' if each.settled is not None else ''}"
    later = [number for number in each.versions if number != each.version]
    more = f", and in {plural(len(later), 'version')} behind it, the last {max(later)}" if later else ""
    when = f" {moment(each.settled)}" if each.settled is not None else ""
    return f"accepted into version {each.version}{when} as {', '.join(each.columns)}{more}"


def _bounds(found: Exposure) -> Table:
    return _table(
        "Deliveries that only bound what was served",
        "Of each, the most that it can have been. What broke off may have arrived in part; nothing in the log says how "
        "far a read without an end came.",
        ("entry", "begun", "ended", "how", "outcome", "dataset", "version", "rows at most", "bytes"),
        (
            (
                each.number,
                moment(each.begun),
                moment_or(each.ended, "not in the log"),
                each.how,
                each.outcome,
                found.flows[each.flow].dataset,
                found.flows[each.flow].version,
                count(each.rows),
                size(each.bytes) if each.bytes is not None else "not known",
            )
            for each in reversed(found.deliveries)
            if each.how != "complete"
        ),
    )


def _could(found: Exposure) -> Table:
    groups: dict[tuple[Any, ...], list[Part]] = {}
    content = _Contents()
    for part in found.parts:
        if part.could:
            key = (part.dataset_id, part.version, part.state, masked(part), content.of(part.could), part.up_to)
            groups.setdefault(key, []).append(part)
    return _table(
        "Could have been read and was not",
        "Under grants that counted while a credential did and nothing was frozen. Where a row filter applies it is up "
        "to so many rows. A row that was read in another version counts as read.",
        ("dataset", "version", "columns", "masked", "not read"),
        (
            (
                members[0].dataset,
                _version(members[0]),
                ", ".join(part.column for part in members),
                masked(members[0]),
                ("up to " if members[0].up_to else "") + _ranges(members[0].could),
            )
            for members in groups.values()
        ),
    )


def _spans(spans: Sequence[Span]) -> str:
    shown = ", ".join(f"{moment(span.first)} to {moment_or(span.last, 'now')}" for span in spans[:4])
    return shown + (", …" if len(spans) > 4 else "")


def _grants(found: Exposure) -> Table:
    return _table(
        "Grants",
        "Open is when the vendor could read under a grant: it counted, a credential did, and nothing was frozen.",
        ("grant", "dataset", "versions", "columns", "masks", "rows where", "purpose", "delivery", "limits", "made",
         "expires", "ended", "open"),
        (
            (
                each.grant,
                each.dataset,
                ("" if each.pinned is None else "only ") + ", ".join(map(str, each.versions)),
                ", ".join(each.columns),
                ", ".join(f"{place}={mask}" for place, mask in each.masks),
                each.where or "",
                each.purpose or "",
                each.delivery,
                ", ".join(f"{name} {most:,}" for name, most in sorted(each.limits.items())),
                moment(each.made),
                moment_or(each.expires, "never"),
                moment_or(each.ended, ""),
                _spans(each.open) or "never",
            )
            for each in found.windows
        ),
    )  # fmt: skip


def _credentials(found: Exposure) -> Table:
    return _table(
        "Credentials",
        "A credential without a key of its own is a bearer's: whoever has its token can read.",
        ("credential", "issued", "expires", "ended", "kind", "networks"),
        (
            (
                each.credential,
                moment(each.issued),
                moment_or(each.expires, "never"),
                moment_or(each.ended, ""),
                f"tokens of {each.issuer}" if each.issuer else "bound to a key" if each.bound else "bearer",
                ", ".join(each.networks) or "any",
            )
            for each in found.credentials
        ),
    )


def _shared(found: Exposure) -> Table:
    return _table(
        "Who else holds the same rows",
        "Vendors whose compartments hold rows and columns that this one was served, as fan-outs and assignments tell. "
        "Versions that begin with the same rows count.",
        ("vendor", "dataset", "version", "columns", "rows served exactly", "at most more", "since", "until"),
        (
            (
                each.vendor,
                each.dataset,
                each.version,
                ", ".join(each.columns),
                count(each.rows),
                count(each.at_most),
                moment(each.since),
                moment_or(each.until, "still"),
            )
            for each in found.shared
        ),
    )


def _data_keys(found: Exposure) -> Table:
    return _table(
        "Data keys in use",
        "Which keys of the vendor's a process asked the KMS to unwrap, and how many deliveries were under each.",
        ("compartment, holder", "dataset", "column group", "columns", "epoch", "process", "unwrapped", "first", "last",
         "deliveries"),
        (
            (
                each.place,
                each.dataset or "",
                each.group,
                ", ".join(each.columns),
                each.epoch,
                each.process or "not in the log",
                count(each.count),
                moment_or(each.first, ""),
                moment_or(each.last, ""),
                count(each.deliveries),
            )
            for each in found.keys
        ),
    )  # fmt: skip


def _chunk_keys(found: Exposure) -> Table:
    return _table(
        "Chunk keys handed out",
        "Keys in the vendor's hands: each opens one chunk for ever, wherever its ciphertext is. The JSON lists them.",
        ("compartment", "dataset", "column group", "columns", "epoch", "chunks"),
        (
            (
                each.compartment,
                each.dataset or "",
                each.group,
                ", ".join(each.columns),
                each.epoch,
                count(len(each.ids)),
            )
            for each in found.chunks
        ),
    )


def _refused(found: Exposure) -> Table:
    return _table(
        "Requests that were refused",
        "",
        ("reason", "credential", "delegates", "address", "dataset", "columns", "times", "first", "last"),
        (
            (
                each.request.reason,
                each.request.credential,
                " → ".join(name for _, name in each.request.delegates),
                each.request.address or "several",
                each.request.dataset or "",
                ", ".join(each.request.columns),
                count(each.count),
                moment(each.first),
                moment(each.last),
            )
            for each in found.refused
        ),
    )


def _events(found: Exposure) -> Table:
    return _table(
        "What was done about the vendor",
        "",
        ("entry", "time", "what", "details"),
        ((each.number, moment(each.time), each.what, each.detail) for each in reversed(found.events)),
    )
