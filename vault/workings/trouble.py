"""When one holder's KMS key refuses: whose it is, what helps, and going on with the others."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from vault.errors import Conflict, IntegrityError, KeyUnavailable, PartlyDone, VaultError
from vault.kms import KeyState
from vault.workings.names import Holder, holder_by_id
from vault.workings.parts import OwnerParts

__all__ = ["being_offboarded", "each_holder", "naming", "stopped"]

T = TypeVar("T")
R = TypeVar("R")


def being_offboarded(name: str) -> str:
    """What to say of a vendor whose offboarding was cut short."""
    return f"the offboarding of '{name}' was begun; 'dsvault vendor offboard {name}' ends it"


def stopped(parts: OwnerParts, holder: Holder) -> str | None:
    """Why the KMS refuses a holder's key on purpose, and what helps; None where it should not.

    On purpose is a key that was disabled, or an offboarding that was begun. What cannot be opened for another reason
    is a fault. Raises KmsError where the KMS cannot be asked.
    """
    if holder.ending:
        return being_offboarded(holder.name)
    if KeyState.DISABLED in {parts.kms.state(key) for key in holder.kms_keys}:
        return f"a KMS key of '{holder.name}' is disabled; 'dsvault kms enable {holder.name}' lets its data be opened"
    return None


@contextmanager
def naming(parts: OwnerParts, holder: Holder) -> Iterator[None]:
    """Say whose KMS key it is that refuses; a vendor that was offboarded in the meantime is a Conflict."""
    try:
        yield
    except (KeyUnavailable, IntegrityError) as error:
        with parts.catalog.read() as transaction:
            present = holder_by_id(transaction, parts.sealer(), holder.id)
        if present.ended:
            raise Conflict(f"the vendor '{holder.name}' was offboarded in the meantime") from error
        if isinstance(error, IntegrityError):
            raise
        raise KeyUnavailable(stopped(parts, present) or f"'{holder.name}': {error}") from error


def each_holder(
    parts: OwnerParts, targets: Iterable[T], holder: Callable[[T], Holder], step: Callable[[T], R | None]
) -> list[R]:
    """Take a step for each target and go on past those that fail.

    Raises the error itself where there was one target, and PartlyDone with the other results where there were more.
    """
    chosen = list(targets)
    done: list[R] = []
    failures: list[str] = []
    for target in chosen:
        try:
            with naming(parts, holder(target)):
                result = step(target)
        except VaultError as error:
            if len(chosen) == 1:
                raise
            name = holder(target).name
            failures.append(str(error) if f"'{name}'" in str(error) else f"'{name}': {error}")
            continue
        if result is not None:
            done.append(result)
    if failures:
        raise PartlyDone(failures, done)
    return done
