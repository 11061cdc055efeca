"""What was used of limited grants, and what vendors sent, anew from the log: after a restore nobody starts from
nothing.

Requests count with the entry that begins them, rows and bytes with the entry that ends a read. A read whose end is
missing counts with what its interim entries list, which may be less than left in the last minute before a crash. A
shared file counts whole, each time that an address of it is handed out. A submission that brokers put into quarantine
is in the backup from the next snapshot on only, and in the log at once.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from vault.audit import Entry, Kind
from vault.catalog import WAITING, SubmissionRow
from vault.encoding import is_id, timestamp

__all__ = ["received", "recount"]

_Counts = dict[str, int]
#: Larger than any limit that holds, and small enough for a catalog's numbers.
_MOST: Final = 2**53
#: What begins a request, and what is charged whole as it is written.
_REQUESTS: Final = frozenset({Kind.LEASED, Kind.FILES_ASKED, Kind.SUBMITTED, Kind.READ_BEGUN})
_AT_ONCE: Final = frozenset({Kind.LEASED, Kind.FILE_HANDED_OUT})


def recount(entries: Iterable[tuple[int, Entry]], grants: Collection[str]) -> Mapping[tuple[str, str], _Counts]:
    """Requests, rows and bytes by grant and day (UTC), of these grants."""
    used: dict[tuple[str, str], _Counts] = defaultdict(lambda: dict.fromkeys(("requests", "rows", "bytes"), 0))
    open_reads: dict[tuple[int, str], tuple[_Counts, _Counts]] = {}
    for sequence, entry in entries:
        fields = entry.fields
        grant = fields.get("grant")
        if not isinstance(grant, str) or grant not in grants:
            continue
        counts = used[grant, timestamp(entry.time)[:10]]
        if entry.kind in _REQUESTS:
            counts["requests"] += 1
        if entry.kind in _AT_ONCE:
            _add(counts, fields)
        elif entry.kind is Kind.READ_BEGUN:
            open_reads[sequence, str(fields.get("nonce"))] = (counts, {"rows": 0, "bytes": 0})
        elif entry.kind is Kind.READ_WENT_ON:
            # Only the process that began a read knows its nonce: what names another is nobody's.
            interim = open_reads.get((_number(fields.get("read")), str(fields.get("nonce"))))
            if interim is not None:
                _add(interim[1], fields)
        elif entry.kind is Kind.READ_ENDED:
            begun = open_reads.pop((_number(fields.get("read")), str(fields.get("nonce"))), None)
            if begun is not None:
                _add(counts, fields)
    for counts, listed in open_reads.values():
        _add(counts, listed)
    return used


def received(entries: Iterable[tuple[int, Entry]]) -> list[SubmissionRow]:
    """The submissions that the log says were received, oldest first, as they stood by it; a row's note is not in it.

    What somebody else than dsvault wrote may name anything: whether it is there is for the caller to look up.
    """
    found: dict[tuple[str, str], SubmissionRow] = {}
    states = {Kind.SUBMISSION_ACCEPTED: "accepted", Kind.SUBMISSION_REJECTED: "rejected"}
    for _, entry in entries:
        fields = entry.fields
        place = (str(fields.get("vendor_id")), str(fields.get("submission")))
        if entry.kind is Kind.SUBMITTED and place not in found and all(is_id(each) for each in place):
            texts = [fields.get(name) for name in ("grant", "dataset_id", "object", "envelope")]
            if not all(isinstance(text, str) and text.isascii() for text in texts):
                continue
            grant, dataset, name, envelope = map(str, texts)
            size, time = _number(fields.get("bytes")), timestamp(entry.time)
            came = fields.get("received") if isinstance(fields.get("received"), str) else time
            found[place] = SubmissionRow(*place, grant, dataset, name, size, envelope.encode(), str(came), WAITING)
        elif entry.kind in states and place in found:
            found[place] = replace(found[place], state=states[entry.kind], settled=timestamp(entry.time))
    return list(found.values())


def _add(counts: _Counts, fields: Mapping[str, Any]) -> None:
    for name in ("rows", "bytes"):
        counts[name] = min(_MOST, counts[name] + _number(fields.get(name)))


def _number(value: object) -> int:
    """A number, whatever somebody wrote; more than a catalog has room for is as much as it has."""
    return min(_MOST, max(0, value)) if type(value) is int else 0
