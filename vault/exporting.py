"""Reading the log out, entry by entry, for whoever keeps it elsewhere: all there is, or what comes from now on too.

Entries have numbers without gaps, in the order in which they were committed, whichever process wrote them. So whoever
remembers the last one that it has goes on behind it, and neither skips nor repeats one.
"""

import bisect
import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from typing import Final

from vault.audit import Entry, Leaf
from vault.encoding import timestamp
from vault.errors import IntegrityError, InvalidInput, Unavailable
from vault.workings.names import holders
from vault.workings.parts import OwnerParts

__all__ = ["follow", "names", "number_before"]

_LOG = logging.getLogger("dsvault.log")
#: How many entries one look at the catalog takes: a slow reader holds no view of it open.
_PAGE: Final = 1000


def _entries(parts: OwnerParts, read: Callable[[Leaf], Entry], after: int) -> Iterator[tuple[int, Entry]]:
    while True:
        leaves = list(islice(parts.journal.leaves(after), _PAGE))
        for leaf in leaves:
            yield leaf.sequence, read(leaf)
        if len(leaves) < _PAGE:
            return
        after = leaves[-1].sequence


def follow(parts: OwnerParts, after: int, again: Callable[[], bool]) -> Iterator[tuple[int, Entry]]:
    """Every entry behind a number, oldest first, and what is appended afterwards, opened with the auditor's key.

    ``again`` waits for the next look, and says whether there is one. A catalog that cannot be reached is asked again.
    Raises IntegrityError where an entry does not open for want of an auditor's key, and where the log ends before what
    was read of it: it was rolled back.
    """
    read = parts.journal.reader(parts.signers.keys.auditor_secrets())
    reached = True
    while True:
        try:
            if _size(parts) < after:
                raise IntegrityError(f"the log ends before entry {after}, which was read already: it was rolled back")
            for sequence, entry in _entries(parts, read, after):
                yield sequence, entry
                after = sequence
            reached = True
        except Unavailable as error:
            if reached:
                _LOG.warning("the log cannot be read, and is asked again: %s", error)
            reached = False
        if not again():
            return


def _size(parts: OwnerParts) -> int:
    end = parts.journal.end()
    return end[1].size if end is not None else 0


def number_before(parts: OwnerParts, since: "int | datetime | None") -> int:
    """The number of the entry that is the last before what is asked for: behind a number, or from a time on.

    Raises InvalidInput for a number that the log does not reach.
    """
    size = _size(parts)
    if since is None:
        return 0
    if isinstance(since, datetime):
        # Time in the log does not run back.
        moment, journal = timestamp(since), parts.journal
        return bisect.bisect_left(range(1, size + 1), moment, key=lambda number: journal.leaf(number).time)
    if since > size:
        raise InvalidInput(f"--since: the log ends at entry {size}; is it the one that was exported before?")
    return since


def names(parts: OwnerParts) -> dict[str, str]:
    """Vendors' names by their ids."""
    sealer = parts.sealer()
    with parts.catalog.read() as transaction:
        return {holder.id: holder.name for holder in holders(transaction, sealer)}
