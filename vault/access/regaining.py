"""Shared files whose objects were changed, or are gone, while addresses of them are good: each is built anew.

What the new object holds is the same, byte for byte, since all that decides it is in what the file is sealed for; its
salt is fresh, and so is every key. Where it could not be the same (a newer version came, a grant or a key is another),
there is nothing to go on with. What was found is written down before anything is removed or opened.
"""

from collections.abc import Callable
from typing import Any, Final

from vault import spool
from vault.access.callers import Caller
from vault.access.permits import live_grant, permitted
from vault.access.spooling import Damaged, Spool, damaged, discard, facts_of
from vault.access.streams import planned
from vault.access.tickets import REFUSAL
from vault.cursors import FileTicket
from vault.errors import Conflict, InvalidInput, NotFound, NotGranted
from vault.policy import Request
from vault.trust import Grant
from vault.workings.parts import Parts

__all__ = ["regained"]

#: Requests of one vendor that build a file, or wait for one, in the threads in which addresses are answered.
_AT_ONCE: Final = 4


def regained(
    parts: Parts,
    caller: Caller,
    ticket: FileTicket,
    seen: bytes | None,
    go_on: Callable[[], None],
) -> tuple[Any, bytes, int]:
    """What `facts_of` says of a file that is whole again; ``seen`` is the salt of an object of which segments are not.

    ``go_on`` raises what ends it. Raises NotGranted where the file cannot be had any more, Unavailable where too many
    are being built, or the store lets nothing be removed, LimitReached where it has no room, and what a read does.
    """
    vendor, name = caller.vendor, ticket.object
    grant = live_grant(parts, vendor, ticket.grant)
    if grant is None:
        raise NotGranted(REFUSAL)
    with parts.spools.turn(name, go_on, _AT_ONCE):
        gone = False
        try:
            found = facts_of(parts, vendor, name, ticket.binding)
            if found[1] != seen:
                return found  # another request was first, or the store is well again
            discard(parts, grant, vendor, name)
        except Damaged:
            discard(parts, grant, vendor, name)
        except NotFound:
            gone = True
        built, shard = _same(parts, caller, grant, ticket, go_on)
        if gone:
            damaged(parts, grant, vendor, name, "missing")
        built.build(shard, name, ticket.binding)
        return facts_of(parts, vendor, name, ticket.binding)


def _same(
    parts: Parts, caller: Caller, grant: Grant, ticket: FileTicket, go_on: Callable[[], None]
) -> tuple[Spool, int]:
    """What builds the file again, and the shard that it is of; raises NotGranted where it would be another."""
    try:
        allowed = permitted(parts, caller, Request(grant.dataset_name, grant.id))
    except (NotFound, NotGranted, Conflict, InvalidInput) as error:
        raise NotGranted(REFUSAL) from error

    def gone() -> bool:
        go_on()
        return False

    keys, plan = planned(parts, caller, allowed, gone)
    built = Spool(parts, allowed, plan, keys, spool.end_of(ticket.object), go_on)
    shard = built.shard_of(ticket.binding)
    if shard is None:
        raise NotGranted(REFUSAL)
    return built, shard
