"""Comparing what the KMS says that it opened with what dsvault's processes say that they asked it for.

Every call that a process of dsvault's makes is an item of a "data keys opened" entry (`vault.workings.opened`). Each
unwrap in the KMS's own log is matched with one item of the very same data key at about the same time; whatever is left
over was asked for by somebody else, with a token that was taken from a broker, say. Counting finds one who hides in
the shadow of an honest read too: there is one item for two unwraps.

What this cannot see: a call that the KMS's log does not have, and one that a process announces which was itself taken
over. The first shows the other way round, as items without an unwrap, the second as an entry of that process.
"""

import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from vault.audit import Kind
from vault.encoding import from_timestamp, to_base64
from vault.errors import IntegrityError, InvalidInput
from vault.kms.calls import Call, Told
from vault.kms.logs import read_logs
from vault.kms.transit import associated_data
from vault.matching import DEFAULT_SKEW, unmatched
from vault.model import KeyScope
from vault.workings.names import holders
from vault.workings.parts import OwnerParts
from vault.workings.whose import Names, Whose

__all__ = ["Announced", "Period", "Reconciled", "Unexplained", "reconcile"]

_SLACK: Final = timedelta(seconds=1)
#: How long a client of ours goes on asking a KMS that fails.
_REPEATED: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Period:
    """From when to when both logs are looked at; None is as far as the KMS's log reaches."""

    since: datetime | None = None
    until: datetime | None = None

    def __contains__(self, moment: datetime) -> bool:
        return (self.since is None or moment >= self.since) and (self.until is None or moment <= self.until)


@dataclass(frozen=True, slots=True)
class Announced:
    """An item of the log's: the entry's number, when the call was announced and when that was written down."""

    sequence: int
    scope: KeyScope
    since: datetime
    time: datetime
    process: str
    whose: Whose | None = None


@dataclass(frozen=True, slots=True)
class Unexplained:
    """What the KMS opened and no entry explains. ``whose`` is None where its context is none of dsvault's.

    ``near`` is how many unwraps of the same data key there are at about that time: where the log explains some
    of them, nobody can tell which.
    """

    call: Call
    whose: Whose | None
    near: int


@dataclass(frozen=True, slots=True)
class Reconciled:
    """How two logs compare.

    ``missing`` are items without an unwrap although the KMS's log reaches there, ``beyond`` those where it does not.
    ``in_doubt`` is how many of the unexplained may be explained by items from just beyond the file, if a clock is off.
    ``refused`` are calls that the KMS refused, ``foreign`` those of other vaults, ``other`` those of no vault.
    """

    told: Told
    period: Period
    matched: int
    unexplained: tuple[Unexplained, ...]
    missing: tuple[Announced, ...]
    beyond: tuple[Announced, ...]
    in_doubt: int
    refused: int
    foreign: int
    other: int

    @property
    def ok(self) -> bool:
        """Nothing is left over; what the KMS's log does not reach counts where that end of the period was asked for."""
        return not (self.unexplained or self.missing or self.short)

    @property
    def short(self) -> tuple[Announced, ...]:
        """Of ``beyond``, those within the period that was asked for: the KMS's log should reach there."""
        first = self.told.first
        before = [first is not None and item.since < first for item in self.beyond]
        ends = [self.period.since if early else self.period.until for early in before]
        return tuple(item for item, end in zip(self.beyond, ends, strict=True) if end is not None)


def reconcile(
    parts: OwnerParts,
    logs: Sequence[Path],
    period: Period,
    skew: timedelta = DEFAULT_SKEW,
    audit_hash: Callable[[str], str] | None = None,
) -> Reconciled:
    """Compare files of the KMS's log with the vault's own; ``audit_hash`` is that of an OpenBao audit device.

    Raises InvalidInput for files that cannot be read, or that hide which data keys were opened, and IntegrityError
    where the vault's log is not whole: what is announced in it would prove nothing.
    """
    told = read_logs(list(logs))
    names = Names(parts)
    _let_be_written(parts, told)
    items = _items(parts, names, parts.journal.verify())
    own = _kms_keys(parts)
    calls = _shown(parts, told.calls, items, own, audit_hash)
    mine = [call for call in calls if _is_mine(call, parts.vault, own)]
    others = [call for call in calls if not _is_mine(call, parts.vault, own)]
    opened = [call for call in mine if call.opened]
    # A call that the KMS refused was announced like any other, and its item explains no unwrap of somebody else's.
    over, spare, in_doubt = _match(opened + _given_up(mine), items, skew, told)
    spare = [_with_whose(item, names) for item in spare if item.since in period or item.time in period]
    missing = tuple(item for item in spare if _reaches(told, item))
    beyond = tuple(item for item in spare if not _reaches(told, item))
    times = _times(opened)
    unexplained = tuple(
        Unexplained(call, names.of(call.scope) if call.scope is not None else None, _near(call, times, skew))
        for call in sorted(over, key=lambda call: call.time)
        if call.opened and call.time in period
    )
    inside = [call for call in opened if call.time in period]
    return Reconciled(
        told=told,
        period=period,
        matched=len(inside) - len(unexplained),
        unexplained=unexplained,
        missing=missing,
        beyond=beyond,
        in_doubt=in_doubt,
        refused=sum(not call.opened for call in mine if call.time in period),
        foreign=sum(call.scope is not None for call in others),
        other=sum(call.scope is None for call in others),
    )


def _let_be_written(parts: OwnerParts, told: Told) -> None:
    """Of a KMS's log that is being written, wait for the items of its last calls: they come a moment later."""
    assert told.last is not None
    left = _SLACK - (parts.clock() - told.last)
    if timedelta(0) < left <= _SLACK:
        time.sleep(left.total_seconds())


def _items(parts: OwnerParts, names: Names, size: int) -> list[Announced]:
    """What the log announces in so many entries: an item just outside the period may explain a call just inside."""
    found = []
    for sequence, entry in parts.journal.entries(parts.signers.keys.auditor_secrets()):
        if sequence > size:
            break  # it came behind what was verified
        if entry.kind is not Kind.KEYS_OPENED:
            names.learn(entry)
            continue
        try:
            since, process = from_timestamp(entry.fields["since"]), str(entry.fields["process"])
            for place, group, epoch in entry.fields["keys"]:
                scope = KeyScope(parts.vault, place, group, epoch)
                found.append(Announced(sequence, scope, since, entry.time, process))
        except (IntegrityError, KeyError, TypeError, ValueError):
            continue  # no process of dsvault's wrote it: it explains no unwrap
    return found


def _kms_keys(parts: OwnerParts) -> frozenset[str]:
    """The vault's KMS keys by the names that the KMS's log has for them: a transit key's name, or an ARN."""
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        found = {key for holder in holders(transaction, sealer) for key in holder.every_kms_key}
    return frozenset(
        key.removeprefix("awskms:") if key.startswith("awskms:") else key.removeprefix("transit:").rpartition(":")[0]
        for key in found
    )


def _is_mine(call: Call, vault: str, own: frozenset[str]) -> bool:
    """Whether a call opens what is this vault's: by its context or, without one, by the KMS key."""
    return call.scope.vault == vault if call.scope is not None else call.key in own


def _shown(
    parts: OwnerParts,
    calls: list[Call],
    items: list[Announced],
    own: frozenset[str],
    audit_hash: Callable[[str], str] | None,
) -> list[Call]:
    """The calls with the contexts that an audit device hides: each data key of the vault is hashed as it would."""
    if not any(call.hidden is not None and call.key in own for call in calls):
        return calls
    if audit_hash is None:
        raise InvalidInput(
            "--kms-log: the audit device hides which data keys were opened; for what is to come, run 'bao secrets tune "
            "-audit-non-hmac-request-keys=associated_data MOUNT', and for what is there, give --audit-device NAME and "
            "a token that may use sys/audit-hash/NAME"
        )
    with parts.catalog.read() as transaction:
        rows = [row for holder in transaction.holders() for row in transaction.keys_of_holder(holder.id)]
    known = {item.scope for item in items} | {
        KeyScope(parts.vault, row.compartment, row.group, row.epoch) for row in rows
    }
    hashes = {audit_hash(to_base64(associated_data(scope.context()))): scope for scope in known}
    # What matches none is of no data key that this vault ever had: under its KMS key that is unexplained.
    return [call if call.hidden is None else _revealed(call, hashes) for call in calls]


def _revealed(call: Call, hashes: dict[str, KeyScope]) -> Call:
    return replace(call, scope=hashes.get(call.hidden or ""))


def _given_up(calls: list[Call]) -> list[Call]:
    """The calls that were refused, without those that the same client made again soon after and that were then done.

    Such a pair was announced once: a KMS that fails for a moment is asked again.
    """
    done: dict[tuple[object, ...], list[datetime]] = defaultdict(list)
    for call in sorted((call for call in calls if call.opened), key=lambda call: call.time):
        done[_client(call)].append(call.time)

    def repeated(call: Call) -> bool:
        later = done[_client(call)]
        at = bisect_left(later, call.time)
        return at < len(later) and later[at] - call.time <= _REPEATED

    return [call for call in calls if not call.opened and not repeated(call)]


def _client(call: Call) -> tuple[object, ...]:
    return call.scope, *sorted((name, value) for name, value in call.who.items() if name != "event")


def _match(
    calls: list[Call], items: list[Announced], skew: timedelta, told: Told
) -> tuple[list[Call], list[Announced], int]:
    """What is left over of either, data key by data key, and how many calls are only left over at an end of the file.

    An item from beyond the KMS's log has its call there, and may not explain another one: along a chain of calls that
    are nearer to each other than the skew it would explain one that is far away. Where a clock is off, honest calls
    at the ends are left over too, which nothing here can tell.
    """
    asked: dict[KeyScope | None, list[Call]] = defaultdict(list)
    announced: dict[KeyScope | None, list[Announced]] = defaultdict(list)
    for call in calls:
        asked[None if call.takes_key else call.scope].append(call)
    for item in items:
        announced[item.scope].append(item)
    over, spare, in_doubt = [], [], 0
    # The KMS's log may have whole seconds only.
    slack = (skew + _SLACK).total_seconds()
    for scope in asked.keys() | announced.keys():
        moments = [call.time.timestamp() for call in asked[scope]]
        spans = [_span(item) for item in announced[scope]]
        within = [index for index, item in enumerate(announced[scope]) if _touches(told, item)]
        beyond = sorted(set(range(len(spans))) - set(within))
        lost, unused = unmatched(moments, [spans[index] for index in within], slack)
        if lost and beyond:
            in_doubt += len(lost) - len(unmatched(moments, spans, slack)[0])
        over += [asked[scope][index] for index in lost]
        spare += [announced[scope][index] for index in [within[at] for at in unused] + beyond]
    return over, sorted(spare, key=lambda item: (item.sequence, item.scope.compartment, item.scope.group)), in_doubt


def _span(item: Announced) -> tuple[float, float]:
    """When the call was made, in seconds; a clock that was set back in between makes no item vanish."""
    ends = item.since.timestamp(), item.time.timestamp()
    return min(ends), max(ends)


def _times(opened: list[Call]) -> dict[KeyScope | None, list[datetime]]:
    """When each data key was opened, in order."""
    times: dict[KeyScope | None, list[datetime]] = defaultdict(list)
    for call in sorted(opened, key=lambda call: call.time):
        times[call.scope].append(call.time)
    return times


def _near(call: Call, times: dict[KeyScope | None, list[datetime]], skew: timedelta) -> int:
    """How many unwraps of the same data key there are within the time that an item explains."""
    found = times[call.scope]
    return bisect_right(found, call.time + skew) - bisect_left(found, call.time - skew)


def _reaches(told: Told, item: Announced) -> bool:
    """Whether the KMS's log has the time of an item, from its first line to its last."""
    assert told.first is not None
    assert told.last is not None
    return told.first <= item.since and item.time <= told.last


def _touches(told: Told, item: Announced) -> bool:
    """Whether an item's call may be in the KMS's log, as far as the clocks agree."""
    assert told.first is not None
    assert told.last is not None
    return item.time >= told.first - _SLACK and item.since <= told.last + _SLACK


def _with_whose(item: Announced, names: Names) -> Announced:
    return replace(item, whose=names.of(item.scope))
