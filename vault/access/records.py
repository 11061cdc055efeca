"""What is written down of a request, and what it is charged, before anything of it leaves."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from typing import Any, TypeVar

from vault.access.callers import Caller
from vault.audit import Kind
from vault.catalog import Transaction
from vault.errors import AuditError, Conflict, InvalidInput, LimitReached, Refused, VaultError
from vault.limits import Usage, refuse_used_up
from vault.policy import Permit, Request
from vault.workings.parts import Parts, trusted_now

__all__ = ["Charge", "begin", "day", "mark", "refusals_recorded", "who"]

_LOG = logging.getLogger("dsvault.access")


@dataclass(frozen=True, slots=True)
class Charge:
    """What a grant is charged for a delivery as it begins, and what the entry says of it."""

    used: Mapping[str, int]
    fields: Mapping[str, Any]


_Charge = TypeVar("_Charge", bound=Charge)


def begin(
    parts: Parts, caller: Caller, permit: Permit, kind: Kind, choose: Callable[[Usage], _Charge]
) -> tuple[int, _Charge]:
    """Charge a delivery and write the entry that says so, both or neither; returns the entry's number and the charge.

    ``choose`` says what is delivered, by what was used of the grant so far. Raises LimitReached where the grant is used
    up, and AuditError: then nothing was charged.
    """
    limits = permit.grant.limits
    if not limits:
        charge = choose(Usage({}, {}))
        return parts.journal.record(kind, **who(caller, permit), **charge.fields), charge
    today = day(parts)

    def charged(transaction: Transaction) -> tuple[int, _Charge]:
        usage = Usage(*transaction.usage(permit.grant.id, today))
        refuse_used_up(limits, usage)
        charge = choose(usage)
        transaction.add_usage(permit.grant.id, today, {"requests": 1, **charge.used})
        return parts.journal.record_in(transaction, kind, **who(caller, permit), **charge.fields), charge

    try:
        return parts.catalog.submit(charged)
    except (LimitReached, AuditError):
        raise
    except VaultError as error:
        raise AuditError(f"the audit log could not be written ({error}), so nothing was done") from error


@contextmanager
def refusals_recorded(parts: Parts, caller: Caller, request: Request) -> Iterator[None]:
    """Write an entry for a request that is refused within."""
    try:
        yield
    except (Refused, Conflict, InvalidInput) as error:
        parts.journal.record(
            Kind.REFUSED,
            vendor_id=caller.vendor,
            credential=caller.credential,
            delegates=_delegates(caller),
            subject=caller.subject,
            address=caller.address,
            dataset=request.dataset[:80],
            columns=[name[:80] for name in request.columns or ()][:100],
            reason=type(error).__name__,
        )
        raise


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
