"""What is written down of a request, and what it is charged, before anything of it leaves."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC
from typing import Any, TypeVar

from vault.access.callers import Arrival, Caller
from vault.audit import Kind
from vault.catalog import Transaction
from vault.errors import (
    AuditError,
    Conflict,
    InvalidInput,
    LimitReached,
    Refused,
    Unauthenticated,
    Unavailable,
    VaultError,
)
from vault.limits import Usage, refuse_used_up
from vault.policy import Permit, Request
from vault.workings.parts import Parts, trusted_now

__all__ = ["Charge", "Outdated", "begin", "committed", "day", "mark", "refusals_recorded", "refused", "who"]

_LOG = logging.getLogger("dsvault.access")


class Outdated(Exception):
    """What a permit was decided by has changed before anything came of it: it is to be decided again."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What a grant is charged for a delivery as it begins, and what the entry says of it."""

    used: Mapping[str, int]
    fields: Mapping[str, Any]


_Charge = TypeVar("_Charge", bound=Charge)
_Result = TypeVar("_Result")


def begin(
    parts: Parts,
    arrival: Arrival,
    permit: Permit,
    kind: Kind,
    choose: Callable[[Usage], _Charge],
    holds: Callable[[Transaction], bool] = lambda _transaction: True,
) -> tuple[int, _Charge]:
    """Use up the proof, charge a delivery and write the entry that says so, all or nothing.

    ``choose`` says what is delivered, by what was used of the grant so far. Returns the entry's number and the charge.
    ``holds`` says whether what the permit was decided by is so still. Raises Outdated where it is not, Unauthenticated
    where the proof was used before, LimitReached where the grant is used up, and AuditError: then nothing was changed,
    or, where a required witness cannot be told, nothing but the log and what is charged.
    """
    limits = permit.grant.limits
    today = day(parts) if limits else ""

    def begun(transaction: Transaction) -> tuple[int, _Charge] | Outdated | LimitReached | None:
        # What is refused here is returned: raised, it would undo what others do in the same transaction. Up to the
        # proof nothing was changed; it is used up with the refusal's entry, in a change of its own.
        if not holds(transaction):
            return Outdated()
        usage = Usage(*transaction.usage(permit.grant.id, today)) if limits else Usage({}, {})
        try:
            refuse_used_up(limits, usage)
            charge = choose(usage)
        except LimitReached as error:
            return error
        if not arrival.enter_in(transaction):
            return None
        if limits:
            transaction.add_usage(permit.grant.id, today, {"requests": 1, **charge.used})
        return parts.journal.record_in(transaction, kind, **who(arrival.caller, permit), **charge.fields), charge

    found = committed(parts, begun)
    if found is None:
        raise arrival.turned_away(parts)
    if isinstance(found, Outdated | LimitReached):
        raise found
    parts.journal.hold(found[0])
    return found


def committed(parts: Parts, change: Callable[[Transaction], _Result]) -> _Result:
    """What a change that holds an entry returns, once it is durable."""
    try:
        return parts.catalog.submit(change)
    except AuditError:
        raise
    except VaultError as error:
        raise AuditError(f"the audit log could not be written ({error}), so nothing was done") from error


@contextmanager
def refusals_recorded(parts: Parts, arrival: Arrival, request: Request) -> Iterator[None]:
    """Write an entry for a request that is refused within, and use its proof up whatever becomes of it."""
    try:
        yield
    except Unauthenticated:
        raise
    except (Refused, Conflict, InvalidInput) as error:
        reason = type(error).__name__
        if not committed(parts, lambda transaction: _refused(parts, transaction, arrival, request, reason)):
            raise arrival.turned_away(parts) from None
        raise
    except Exception:
        # What failed for another reason is no second try for whoever has the proof, if that can be written down at all.
        with suppress(Unavailable):
            arrival.enter(parts)
        raise


def refused(parts: Parts, caller: Caller, request: Request, error: Refused) -> None:
    """Write an entry for a request that began, and whose rest is refused; raises AuditError."""
    committed(parts, lambda change: _refused(parts, change, Arrival(caller), request, type(error).__name__))


def _refused(parts: Parts, transaction: Transaction, arrival: Arrival, request: Request, reason: str) -> bool:
    if not arrival.enter_in(transaction):
        return False
    caller = arrival.caller
    parts.journal.record_in(
        transaction,
        Kind.REFUSED,
        vendor_id=caller.vendor,
        credential=caller.credential,
        delegates=_delegates(caller),
        subject=caller.subject,
        address=caller.address,
        dataset=request.dataset[:80],
        columns=[name[:80] for name in request.columns or ()][:100],
        reason=reason,
    )
    return True


def day(parts: Parts) -> str:
    """The day that limits are counted by, in UTC."""
    return trusted_now(parts).astimezone(UTC).date().isoformat()


def mark(parts: Parts) -> None:
    """Leave a checkpoint in the store now and then; a store that cannot take one does not undo what was read."""
    try:
        parts.journal.checkpoint_if_due()
    except VaultError as error:
        _LOG.warning("no checkpoint of the log could be written: %s", type(error).__name__)


def _delegates(caller: Caller) -> list[dict[str, str]]:
    """Through whose hands the access went, the one who asks last."""
    return [{"id": link.id, "to": link.to} for link in caller.links]


def who(caller: Caller, permit: Permit) -> dict[str, object]:
    """What every entry of a delivery says: who has it, from where, under which grant, and of what."""
    return {
        "vendor_id": caller.vendor,
        "vendor": permit.grant.vendor_name,
        "credential": caller.credential,
        "delegates": _delegates(caller),
        "subject": caller.subject,
        "address": caller.address,
        "grant": permit.grant.id,
        "purpose": permit.grant.purpose,
        "dataset": permit.grant.dataset_name,
        "dataset_id": permit.grant.dataset,
        "version": permit.version,
    }
