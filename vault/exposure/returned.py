"""What a vendor sent back, and what became of it, as the log says.

It is no exposure, and of interest all the same: labels of whoever had a vendor's key are in the lab's own versions once
they are accepted. So what says that they were is taken at its word, and what says that they were rejected only where
nothing says the other.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vault.audit import Kind
from vault.exposure.exposure import Returned
from vault.exposure.gathering import Act, micro
from vault.exposure.intervals import Runs, common, of_pairs
from vault.exposure.world import Version, When, World

__all__ = ["returned"]

_WRONG: Final = (KeyError, OverflowError, TypeError, ValueError)
#: Beyond this no number of a log is.
_MOST: Final = 2**53
_KINDS: Final = frozenset({Kind.SUBMITTED.value, Kind.SUBMISSION_ACCEPTED.value, Kind.SUBMISSION_REJECTED.value})


@dataclass(slots=True)
class _Told:
    """All that entries say of the submissions of one id: it is one, unless somebody else than dsvault wrote of it."""

    received: list[Act] = field(default_factory=list)
    accepted: list[Act] = field(default_factory=list)
    rejected: list[Act] = field(default_factory=list)


def returned(acts: Iterable[Act], world: World, period: Runs) -> tuple[list[Returned], list[int]]:
    """The submissions of a period, by when they were received, and the numbers of entries that cannot be understood.

    One that was accepted, and of which the log does not say that it was received, counts by when it was accepted.
    """
    told: dict[str, _Told] = {}
    odd: list[int] = []
    for act in acts:
        if act.kind not in _KINDS or act.fields.get("vendor_id") != world.vendor:
            continue
        try:
            _check(act)
        except _WRONG:
            odd.append(act.number)
            continue
        found = told.setdefault(act.fields["submission"], _Told())
        {Kind.SUBMITTED: found.received, Kind.SUBMISSION_ACCEPTED: found.accepted}.get(
            Kind(act.kind), found.rejected
        ).append(act)
    every = [
        _returned(first, each, world)
        for each in told.values()
        for first in each.received or (each.accepted or each.rejected)[:1]
        if _is_of(first, period)
    ]
    return sorted(every, key=lambda each: each.number), odd


def _is_of(act: Act, period: Runs) -> bool:
    when = When.of(act)
    return bool(len(common(period, of_pairs([(when.early, when.late + 1)]))))


def _check(act: Act) -> None:
    """Raise one of `_WRONG` for an entry that dsvault does not write."""
    texts, numbers, lists = ["submission", "grant", "dataset", "dataset_id"], [], []
    if act.kind == Kind.SUBMITTED:
        texts += ["credential", "address"]
        numbers += ["rows", "bytes", "version"]
        _delegates(act.fields)
    elif act.kind == Kind.SUBMISSION_ACCEPTED:
        numbers += ["version"]
        lists += ["columns", "column_ids"]
    When.of(act)
    fields = act.fields
    if not all(isinstance(fields[name], str) for name in texts):
        raise TypeError("not a text")
    if not all(type(fields[name]) is int and 0 <= fields[name] < _MOST for name in numbers):
        raise ValueError("not a number")
    if not all(
        isinstance(fields[name], list) and all(isinstance(each, str) for each in fields[name]) for name in lists
    ):
        raise TypeError("not texts")


def _delegates(fields: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The ids and names of those that the vendor had handed its access on to, one to the next."""
    found = tuple((each["id"], each["to"]) for each in fields.get("delegates") or ())
    if not all(isinstance(text, str) for pair in found for text in pair):
        raise TypeError("not a text")
    return found


def _returned(first: Act, told: _Told, world: World) -> Returned:
    fields, came = first.fields, first.kind == Kind.SUBMITTED
    state, settled = ("accepted", told.accepted) if told.accepted else ("rejected", told.rejected)
    became = min((act.fields["version"] for act in told.accepted), default=None)
    return Returned(
        number=first.number,
        submission=fields["submission"],
        dataset=fields["dataset"],
        dataset_id=fields["dataset_id"],
        grant=fields["grant"],
        credential=fields["credential"] if came else None,
        delegates=_delegates(fields) if came else (),
        address=fields["address"] if came else None,
        rows=fields["rows"] if came else None,
        bytes=fields["bytes"] if came else None,
        of_version=fields["version"] if came else None,
        received=micro(first.time) if came else None,
        state=state if settled else "waiting",
        settled=min((micro(act.time) for act in settled), default=None),
        version=became,
        columns=tuple(sorted({name for act in told.accepted for name in act.fields["columns"]})),
        versions=_versions(told.accepted, became, world),
    )


def _versions(accepted: Iterable[Act], became: int | None, world: World) -> tuple[int, ...]:
    """The versions that have columns of a submission: the one that it became, and those behind it with the same."""
    found: set[int] = set()
    for act in accepted:
        ids, dataset = set(act.fields["column_ids"]), act.fields["dataset_id"]
        found.add(act.fields["version"])
        for (of, number), version in world.versions.items():
            if of == dataset and became is not None and number >= became and _has(version, ids):
                found.add(number)
    return tuple(sorted(found))


def _has(version: Version, ids: set[str]) -> bool:
    return any(not ids.isdisjoint(names) for names in version.namings)
