"""Checking that everything is there, whole, and opens as it should. Nothing is changed.

`check` verifies the log, opens every holder, head, grant and credential, and reads every object that a live manifest
names: under its live key, and under no retired one. With ``epochs`` only the end of each object is read, whose footer
opens under the chunk's key and no other: enough to prove after a rekey that nothing was forgotten.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from vault.catalog import WAITING, SubmissionRow
from vault.chunks import verify, verify_footer
from vault.derivation import chunk_key
from vault.errors import IntegrityError, NotFound, VaultError
from vault.keyring import WrappedKey
from vault.manifest import ChunkRef
from vault.model import DEFAULT_GRACE, ChunkIdentity
from vault.objects import StoredObject
from vault.trust import Label, Role, Signed
from vault.workings.names import Holder, datasets, holders, own_holder_name
from vault.workings.parts import OwnerParts, holder_sealer, wrapped_key
from vault.workings.permissions import live_for_vendor
from vault.workings.putting import Checksum
from vault.workings.quarantine import Places, called, check_kept, kept
from vault.workings.reading import identity_of
from vault.workings.spoolend import spent_files
from vault.workings.trouble import stopped
from vault.workings.usage import survey
from vault.workings.versions import OpenVersion

__all__ = ["CheckReport", "check", "try_keys"]

#: Objects beyond this size, in bytes, are read in pieces, twice.
_LARGE = 64 << 20


@dataclass(slots=True)
class CheckReport:
    """What a check saw: counts, every fault in a sentence, and what gc may remove.

    ``not_checked`` says whose data could not be looked into because the KMS refuses the key on purpose, and
    ``in_doubt`` how many objects may therefore be in use or not. ``submissions`` wait in quarantine; what is in them is
    not looked at.
    """

    chunks: int = 0
    bytes: int = 0
    retired_tries: int = 0
    log_entries: int = 0
    vendors: int = 0
    faults: list[str] = field(default_factory=list)
    garbage: list[str] = field(default_factory=list)
    garbage_bytes: int = 0
    busy: int = 0
    not_checked: list[str] = field(default_factory=list)
    in_doubt: int = 0
    submissions: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything was checked and nothing is wrong; garbage is not."""
        return not self.faults and not self.not_checked

    def noting(self, place: str, step: Callable[[], None]) -> None:
        """Run a step; what it raises is a fault of that place."""
        try:
            step()
        except VaultError as error:
            self.faults.append(f"{place}: {error}" if place else str(error))


def check(
    parts: OwnerParts, progress: Callable[[int], None] = lambda _done: None, *, epochs: bool = False
) -> CheckReport:
    """Check everything, or with ``epochs`` of the chunks only which keys open them.

    ``progress`` is told the bytes of the chunks that are done. Raises only when the catalog or the owner's keys cannot
    be used at all.
    """
    report = CheckReport()
    parts.manifests.clear()  # what this process has in memory says nothing about the store
    listed = list(parts.store.list("objects"))
    report.noting("the log", lambda: _check_log(parts, report))
    _check_people(parts, report)
    usage = survey(parts)
    report.faults += [fault for fault in usage.faults if fault not in report.faults]
    report.not_checked += sorted(set(usage.closed.values()) - set(report.not_checked))
    names = _names(parts)

    def live() -> Iterator[tuple[ChunkRef, OpenVersion]]:
        seen: set[str] = set()
        for version in usage.live:
            for ref in version.refs():
                if ref.object not in seen:
                    seen.add(ref.object)
                    yield ref, version

    def task(found: tuple[ChunkRef, OpenVersion]) -> tuple[ChunkRef, int, str | None]:
        ref, version = found
        try:
            return ref, try_keys(parts, ref, version, epochs=epochs), None
        except VaultError as error:
            head = version.head
            whose = f"of {names.get(head.dataset, head.dataset)} for {names.get(head.holder, head.holder)}"
            return (
                ref,
                0,
                f"chunk {ref.chunk} (shard {ref.shard} of version {version.manifest.version} {whose}): {error}",
            )

    for ref, tries, fault in parts.engine.map(task, live()):
        report.chunks += 1
        report.bytes += ref.size
        report.retired_tries += tries
        report.faults += [fault] if fault is not None else []
        progress(report.bytes)
    spent = spent_files(parts, DEFAULT_GRACE)
    report.garbage += [info.name for info in spent]
    report.garbage_bytes += sum(info.size for info in spent)
    for info in listed:
        if info.name in usage.objects:
            continue
        if info.name.split("/")[1] in usage.busy:
            report.busy += 1
        elif usage.closed:
            report.in_doubt += 1
        else:
            report.garbage.append(info.name)
            report.garbage_bytes += info.size
    _check_quarantine(parts, report, names, whole=not epochs)
    return report


def _check_quarantine(parts: OwnerParts, report: CheckReport, names: Mapping[str, str], *, whole: bool) -> None:
    """Every submission that waits is there as it came, and no row is a copy; what gc may remove is garbage."""
    found = kept(parts, DEFAULT_GRACE)
    with parts.catalog.read() as transaction:
        places = Places.read(parts.vault, transaction)
    owned: dict[str, list[SubmissionRow]] = {}
    for row in found.rows:
        waits, faults = row.state == WAITING, len(report.faults)
        report.submissions += waits
        place = f"submission {called(row)} of {names.get(row.vendor, row.vendor)}"
        report.noting(place, lambda row=row: places.check(row))  # type: ignore[misc]
        if len(report.faults) > faults:
            continue
        owned.setdefault(row.object, []).append(row)
        if waits:
            report.noting(place, lambda row=row: check_kept(parts, row, whole=whole))  # type: ignore[misc]
    for rows in owned.values():
        if len(rows) > 1:
            ids = " and ".join(called(row) for row in rows)
            report.faults.append(f"submissions {ids} are said to be one object: at most one of them is")
    report.garbage += [info.name for info in found.garbage]
    report.garbage_bytes += sum(info.size for info in found.garbage)
    report.busy += found.recent


def _check_log(parts: OwnerParts, report: CheckReport) -> None:
    report.log_entries = parts.journal.verify()


def _check_people(parts: OwnerParts, report: CheckReport) -> None:
    sealer = parts.sealer()

    def names() -> None:
        with parts.catalog.read() as transaction:
            datasets(transaction, sealer)

    report.noting("dataset names", names)
    with parts.catalog.read() as transaction:
        try:
            people = holders(transaction, sealer)
        except VaultError as error:
            report.faults.append(f"holders: {error}")
            return
    for holder in people:
        if holder.id != parts.owner:
            report.vendors += 1
            if not holder.ended and (reason := stopped(parts, holder)) is not None:
                report.not_checked.append(reason)
                continue
            report.noting(f"vendor {holder.name}", lambda holder=holder: _check_vendor(parts, holder))  # type: ignore[misc]
        report.noting(f"keys of {holder.name}", lambda holder=holder: _check_keys(parts, holder))  # type: ignore[misc]


def _check_keys(parts: OwnerParts, holder: Holder) -> None:
    """Every wrapped data key is under its holder's KMS key, or the one that it is being rewrapped under."""
    with parts.catalog.read() as transaction:
        rows = transaction.keys_of_holder(holder.id)
    if holder.ended and rows:
        raise IntegrityError("wrapped keys of a vendor that was offboarded are in the catalog")
    if any(row.kms_key not in holder.kms_keys for row in rows):
        raise IntegrityError("a data key is under another KMS key than its holder's")


def _check_ended(parts: OwnerParts, vendor: Holder) -> None:
    """Nothing is live of a vendor that was offboarded."""
    with parts.catalog.read() as transaction:
        head = parts.heads.vendor_in(transaction, vendor.id)
    if not head.frozen or head.grants or head.credentials:
        raise IntegrityError("a vendor that was offboarded has a live head")


def _check_vendor(parts: OwnerParts, vendor: Holder) -> None:
    """A vendor's head, its own name, both copies of every grant that is listed, and every listed credential."""
    if vendor.ended:
        _check_ended(parts, vendor)
        return
    own = holder_sealer(parts, parts.keyring, vendor.id)
    with parts.catalog.read() as transaction:
        head = parts.heads.vendor_in(transaction, vendor.id)
        row = transaction.holder(vendor.id)
        if row is None or own_holder_name(row, own) != vendor.name:
            raise IntegrityError("its own name in the catalog is another")
        rows = transaction.grants(vendor=vendor.id)
        credentials = {each.id: each for each in transaction.credentials(vendor.id)}
    for sealer, is_own in ((parts.sealer(), False), (own, True)):
        found = {grant.id for grant in live_for_vendor(parts.root, rows, head, sealer, own=is_own)}
        if found != head.grants.keys():
            raise IntegrityError("the catalog lacks a grant that its head lists, or a signature that it needs")
    for credential, digest in head.credentials.items():
        stored = credentials.get(credential)
        if stored is None:
            raise IntegrityError("the catalog lacks a credential that its head lists")
        signed = Signed.decode(stored.statement, Label.CREDENTIAL)
        parts.root.verify(signed, Role.AUTHORITY)
        if signed.digest != digest:
            raise IntegrityError("a credential in the catalog is not the one that its head lists")


def _names(parts: OwnerParts) -> dict[str, str]:
    """The names of holders and datasets by id, for sentences; none where they cannot be opened."""
    try:
        with parts.catalog.read() as transaction:
            sealer = parts.sealer()
            people = {each.id: each.name for each in holders(transaction, sealer)}
            return people | {each.id: each.name for each in datasets(transaction, sealer)}
    except VaultError:
        return {}


def try_keys(parts: OwnerParts, ref: ChunkRef, version: OpenVersion, *, epochs: bool) -> int:
    """Open one chunk under its live key and try every retired one; returns how many were tried.

    With ``epochs`` only its end is read. Raises IntegrityError where a retired one opens it.
    """
    key = version.keys[ref.group]
    identity = identity_of(key, ref)
    live = chunk_key(parts.keyring.open(key), identity)
    data = _end(parts, ref) if epochs else _whole(parts, ref)
    if epochs:
        verify_footer(data, live, identity)
    else:
        verify(data, live, identity)
    retired = _retired_keys(parts, key)
    for old in retired:
        place = ChunkIdentity(old.scope, ref.chunk)
        try:
            verify_footer(data, chunk_key(parts.keyring.open(old), place), place)
        except IntegrityError:
            continue
        raise IntegrityError(f"it opens under the retired epoch {old.scope.epoch}")
    return len(retired)


def _end(parts: OwnerParts, ref: ChunkRef) -> StoredObject:
    return parts.store.open(ref.object, ref.size, ends=True)


def _whole(parts: OwnerParts, ref: ChunkRef) -> StoredObject | bytes | bytearray:
    """A chunk's object, held in memory unless it is large; raises IntegrityError unless it is what was written."""
    digest = Checksum()
    try:
        data = (
            parts.store.open(ref.object, ref.size) if ref.size > _LARGE else parts.store.get_large(ref.object, ref.size)
        )
        if isinstance(data, bytes | bytearray):
            digest.add(memoryview(data))
        else:
            for start in range(0, ref.size, data.step):
                digest.add(data.read(start, min(start + data.step, ref.size)))
    except NotFound as error:
        raise IntegrityError("its object is missing from the store") from error
    if digest.hex() != ref.checksum:
        raise IntegrityError("its object is not the one that was written")
    return data


def _retired_keys(parts: OwnerParts, live: WrappedKey) -> list[WrappedKey]:
    with parts.catalog.read() as transaction:
        rows = transaction.keys(live.scope.compartment)
    return [
        wrapped_key(parts.vault, row) for row in rows if row.group == live.scope.group and row.epoch != live.scope.epoch
    ]
