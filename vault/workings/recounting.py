"""What was used of limited grants, counted anew from the log: after a restore nobody starts again from nothing.

Requests count with the entry that begins them, rows and bytes with the entry that ends a read. A read whose end is
missing counts with what its interim entries list, which may be less than left in the last minute before a crash. A
shared file counts whole, each time that an address of it is handed out.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from vault.audit import Entry, Kind
from vault.encoding import timestamp

__all__ = ["recount"]

_Counts = dict[str, int]
#: Larger than any limit that holds, and small enough for a catalog's numbers.
_MOST: Final = 2**53


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
        if entry.kind is Kind.LEASED:
            counts["requests"] += 1
            _add(counts, fields)
        elif entry.kind is Kind.FILES_ASKED:
            counts["requests"] += 1
        elif entry.kind is Kind.FILE_HANDED_OUT:
            _add(counts, fields)
        elif entry.kind is Kind.READ_BEGUN:
            counts["requests"] += 1
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


def _add(counts: _Counts, fields: Mapping[str, Any]) -> None:
    for name in ("rows", "bytes"):
        counts[name] = min(_MOST, counts[name] + _number(fields.get(name)))


def _number(value: object) -> int:
    """A number, whatever somebody wrote; more than a catalog has room for is as much as it has."""
    return min(_MOST, max(0, value)) if type(value) is int else 0
