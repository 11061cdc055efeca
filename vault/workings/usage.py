"""What is in use: every object that a live or lately retired manifest names, and everything that makes that doubtful.

Nothing in the catalog is believed for being absent. The store's heads say which compartments and vendors there are;
one that the catalog lacks is a fault, and so is whatever cannot be opened, except where the KMS refuses a vendor's key
on purpose: what is in use there is not known then, and nothing that may be is to be removed.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from vault.catalog import CompartmentRow, Transaction
from vault.errors import NotFound, VaultError
from vault.model import MANIFEST_GROUP
from vault.trust import CompartmentHead, Label, ManifestStatement, Role, Signed
from vault.workings.jobs import ACTIVE
from vault.workings.names import Holder, holders
from vault.workings.parts import OwnerParts, wrapped_key
from vault.workings.trouble import stopped
from vault.workings.versions import OpenManifest, OpenVersion, open_manifest, open_version

__all__ = ["Usage", "objects_named", "objects_of", "survey"]


@dataclass(slots=True)
class Usage:
    """Live versions, all objects in use, jobs that have not ended, and faults in sentences.

    ``closed`` are the compartments that were not looked into, with the reason and the remedy in a sentence.
    """

    live: list[OpenVersion] = field(default_factory=list)
    objects: set[str] = field(default_factory=set)
    busy: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    closed: dict[str, str] = field(default_factory=dict)


def survey(parts: OwnerParts) -> Usage:
    """Look at every compartment; whatever is wrong is a fault and never an absence."""
    usage = Usage()
    subjects = {info.name.split("/")[1] for info in parts.store.list("heads")}
    with parts.catalog.read() as transaction:
        rows = transaction.compartments()
        usage.busy = {job.id for job in transaction.jobs() if job.state == ACTIVE}
        subjects |= {subject for subject, _ in transaction.head_subjects()}
        people = _people(parts, transaction, usage)
        known = {row.id for row in rows} | {row.id for row in transaction.holders()}
        heads = _heads(parts, transaction, rows, usage)
        retired = [(row, each) for row in rows for each in _statements(parts, transaction, row, usage)]
    usage.faults += [f"the catalog lacks the holder or compartment {subject}" for subject in sorted(subjects - known)]
    usage.closed = _closed(parts, rows, people)
    for row, head in heads:
        for number in head.versions if row.id not in usage.closed else ():
            try:
                version = open_version(parts, parts.keyring, row, number)
                usage.objects |= objects_of(version)
            except VaultError as error:
                usage.faults.append(f"version {number} of compartment {row.id}: {error}")
                continue
            usage.live.append(version)
    for row, (statement, is_retired) in retired:
        usage.objects.add(statement.object)
        if is_retired and row.id not in usage.closed:
            usage.objects |= objects_named(parts, row, statement)
    return usage


def _people(parts: OwnerParts, transaction: Transaction, usage: Usage) -> dict[str, Holder]:
    try:
        return {holder.id: holder for holder in holders(transaction, parts.sealer())}
    except VaultError as error:
        usage.faults.append(f"holders: {error}")
        return {}


def _closed(parts: OwnerParts, rows: list[CompartmentRow], people: dict[str, Holder]) -> dict[str, str]:
    """The compartments of holders whose keys the KMS refuses on purpose, and why."""
    vendors = {row.holder for row in rows} - {parts.owner}
    reasons = {vendor: stopped(parts, people[vendor]) for vendor in vendors if vendor in people}
    return {row.id: reason for row in rows if (reason := reasons.get(row.holder)) is not None}


def _heads(
    parts: OwnerParts, transaction: Transaction, rows: list[CompartmentRow], usage: Usage
) -> list[tuple[CompartmentRow, CompartmentHead]]:
    found = []
    for row in rows:
        try:
            head = parts.heads.compartment_in(transaction, row)
        except VaultError as error:
            usage.faults.append(f"compartment {row.id}: {error}")
            continue
        if head is None:
            usage.faults.append(f"compartment {row.id}: it has no head")
        else:
            found.append((row, head))
    return found


def _statements(
    parts: OwnerParts, transaction: Transaction, place: CompartmentRow, usage: Usage
) -> Iterable[tuple[ManifestStatement, bool]]:
    """Every manifest statement of a compartment, and whether it is retired."""
    for row in transaction.versions(place.id):
        try:
            signed = Signed.decode(row.statement, Label.MANIFEST)
            parts.root.verify(signed, Role.PUBLISHER)
            yield ManifestStatement.parse(signed), row.retired is not None
        except VaultError as error:
            usage.faults.append(f"version {row.version} of compartment {place.id}: {error}")


def objects_of(opened: OpenManifest) -> set[str]:
    """The objects that a manifest names: its chunks', and those of its parts."""
    return _places(opened) | {ref.object for ref in opened.refs()}


def _places(opened: OpenManifest) -> set[str]:
    return {part.place.object for part in opened.manifest.parts if part.place is not None}


def objects_named(parts: OwnerParts, place: CompartmentRow, statement: ManifestStatement) -> set[str]:
    """The objects that a retired manifest names; none where it, or its key, is gone already."""
    with parts.catalog.read() as transaction:
        row = transaction.key(place.id, MANIFEST_GROUP, statement.epoch)
    if row is None:
        return set()
    found: set[str] = set()
    try:
        opened = open_manifest(parts, parts.keyring, wrapped_key(parts.vault, row), statement)
    except NotFound:
        return found
    for part in opened.manifest.parts:
        # Of a part that is lost nobody can tell any more what it named, and no new stream can begin from it.
        with suppress(NotFound):
            found |= {ref.object for ref in opened.load(part).refs()}
    return found | _places(opened)
