"""Writing chunks and manifests of one compartment, and the transaction that makes them live.

A `Writer` stages: it puts objects and remembers what refers to them. Nothing that it did counts until
`commit` runs in a catalog transaction, where the compartment's head must still be the one that the writer
began from. Until then a crash leaves garbage and nothing else.
"""

import hashlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace

from vault.catalog import CompartmentRow, HeadRow, Transaction, VersionRow
from vault.derivation import chunk_key
from vault.encoding import new_id, timestamp
from vault.errors import Conflict
from vault.keyring import WrappedKey
from vault.manifest import Manifest, Part, Place, encode_manifest, encode_part
from vault.model import MANIFEST_GROUP, ChunkIdentity, KeyScope
from vault.trust import (
    CompartmentHead,
    Label,
    ManifestStatement,
    Role,
    Signed,
    Signer,
    compartment_body,
    head_statement,
)
from vault.workings.jobs import Job
from vault.workings.names import holder_by_id
from vault.workings.parts import OwnerParts, key_row
from vault.workings.putting import ChunkWriter
from vault.workings.versions import live_keys

__all__ = ["Writer"]


class Writer(ChunkWriter):
    """Stages the next state of one compartment. `chunk` and `copy` may run in several threads.

    The column groups in ``rotate`` get the next epoch instead of their live one, under a key that an earlier run of the
    same ``noted`` where there is one.
    """

    def __init__(
        self,
        parts: OwnerParts,
        job: Job,
        place: CompartmentRow,
        kms_key: str,
        head: CompartmentHead | None,
        *,
        rotate: frozenset[str] = frozenset(),
        noted: Mapping[str, WrappedKey] | None = None,
    ) -> None:
        super().__init__(parts, job.folder)
        self._parts: OwnerParts = parts
        self._job = job
        self._place = place
        self._compartment = place.id
        self._kms_key = kms_key
        self._head = head
        self._rotate = rotate
        self._noted = dict(noted or {})
        self._lock = threading.Lock()
        self._keys: dict[str, tuple[WrappedKey, bytes]] = {}
        self._made: list[WrappedKey] = []
        self._statements: dict[int, Signed] = {}
        self._parts_by_content: dict[str, Part] = {}
        self._withdrawn: set[int] = set()
        self._unused: set[str] = set()

    def key(self, group: str) -> tuple[WrappedKey, bytes]:
        """The data key that this writer encrypts a group under; made where there is none."""
        with self._lock:
            if group not in self._keys:
                self._keys[group] = self._find_key(group)
            return self._keys[group]

    def _find_key(self, group: str) -> tuple[WrappedKey, bytes]:
        live = self._head.epochs.get(group) if self._head else None
        if live is not None and live[1] and group not in self._rotate:
            assert self._head is not None
            with self._parts.catalog.read() as transaction:
                wrapped = live_keys(self._parts, transaction, self._head, frozenset((group,)))[group]
            return wrapped, self._parts.keyring.open(wrapped)
        scope = KeyScope(self._parts.vault, self._compartment, group, (live[0] if live else 0) + 1)
        noted = self._noted.get(group)
        if noted is not None and noted.scope == scope:
            wrapped, plaintext = noted, self._parts.keyring.open(noted)
        else:
            wrapped, plaintext = self._parts.keyring.create(scope, self._kms_key)
        self._made.append(wrapped)
        return wrapped, plaintext

    def manifest(self, manifest: Manifest, publisher: Signer) -> None:
        """Seal, put and sign the manifest of one version, after the parts of it that are not in the store yet."""
        for group in manifest.groups:
            self.key(group)  # a version without rows has its keys too, for the rows to come
        wrapped, data_key = self.key(MANIFEST_GROUP)
        identity = ChunkIdentity(wrapped.scope, new_id())
        manifest = replace(manifest, parts=tuple(self._parts.engine.map(self._part, manifest.parts)))
        data = encode_manifest(manifest, chunk_key(data_key, identity), identity)
        name = f"{self._job.folder}/{identity.chunk}"
        self._parts.store.put(name, data)
        statement = ManifestStatement(
            vault=self._parts.vault,
            compartment=self._compartment,
            version=manifest.version,
            chunk=identity.chunk,
            epoch=wrapped.scope.epoch,
            object=name,
            size=len(memoryview(data)),
            sha256=hashlib.sha256(memoryview(data)).hexdigest(),
            rows=manifest.rows,
            created=manifest.created,
        )
        self._statements[manifest.version] = publisher.sign(Label.MANIFEST, statement.payload())

    def _part(self, part: Part) -> Part:
        """A part that is where it belongs; one that several versions share is written once."""
        if not part.apart or part.place is not None:
            return part
        with self._lock:
            written = self._parts_by_content.get(part.content)
        if written is not None:
            return written
        assert part.listing is not None
        wrapped, data_key = self.key(MANIFEST_GROUP)
        identity = ChunkIdentity(wrapped.scope, new_id())
        data = memoryview(encode_part(part.listing, chunk_key(data_key, identity), identity)).cast("B")
        name = f"{self._job.folder}/{identity.chunk}"
        self._parts.store.put(name, data)
        place = Place(name, identity.chunk, wrapped.scope.epoch, len(data), hashlib.sha256(data).hexdigest())
        placed = replace(part, place=place, listing=None)
        with self._lock:
            self._parts_by_content[part.content] = placed
        return placed

    def epochs(self, groups: Iterable[str]) -> dict[str, int]:
        """The epoch that each of these groups is under in what is staged."""
        live = self._head.epochs if self._head is not None else {}
        with self._lock:
            return {each: self._keys[each][0].scope.epoch if each in self._keys else live[each][0] for each in groups}

    def retire(self, groups: Iterable[str]) -> None:
        """Say that nothing live is under these groups' keys any more, so that gc may forget them."""
        self._unused.update(groups)

    def withdraw(self, version: int) -> None:
        """Leave a version out of the compartment's next head."""
        self._withdrawn.add(version)

    def commit(self, transaction: Transaction, publisher: Signer) -> HeadRow:
        """Make what was staged live; raises Conflict when the compartment's head has moved on."""
        present = self._parts.heads.compartment_in(transaction, self._place)
        if (present.sequence if present else 0) != (self._head.sequence if self._head else 0):
            raise Conflict("the dataset was changed by somebody else in the meantime; try again")
        self._parts.root.refuse_replaced(publisher, Role.PUBLISHER)
        for signed in self._statements.values():
            self._parts.root.refuse_outdated(transaction, signed, Role.PUBLISHER)
        now = self._parts.clock()
        transaction.add_keys(key_row(key, timestamp(now)) for key in self._keys_to_add(transaction))
        superseded = self._statements.keys() | self._withdrawn
        transaction.retire_versions(self._compartment, superseded, timestamp(now))
        for version, signed in self._statements.items():
            earlier = transaction.versions(self._compartment, version)
            generation = max((row.generation for row in earlier), default=-1) + 1
            transaction.add_version(VersionRow(self._compartment, version, generation, signed.encode(), None))
        row = self._next_head(publisher)
        transaction.add_head(row)
        return row

    def _keys_to_add(self, transaction: Transaction) -> list[WrappedKey]:
        """The keys that were made, under the KMS key that their holder has now.

        A rewrap that ended in the meantime has taken every key that it found away from the old one, which may be
        disabled next: those that it could not see follow here. They are few, one for each new column or epoch.
        """
        holder = holder_by_id(transaction, self._parts.sealer(), self._place.holder)
        if holder.ended or holder.ending:
            raise Conflict(f"the vendor '{holder.name}' was offboarded in the meantime")
        kms = self._parts.kms
        return [
            key
            if key.kms_key in holder.kms_keys
            else replace(
                key,
                kms_key=holder.kms_key,
                wrapped=kms.rewrap(key.kms_key, key.wrapped, key.scope.context(), holder.kms_key),
            )
            for key in self._made
        ]

    def _next_head(self, publisher: Signer) -> HeadRow:
        versions = dict(self._head.versions) if self._head else {}
        epochs = dict(self._head.epochs) if self._head else {}
        versions |= {version: signed.digest for version, signed in self._statements.items()}
        versions = {number: digest for number, digest in versions.items() if number not in self._withdrawn}
        epochs |= {group: (wrapped.scope.epoch, wrapped.key_id) for group, (wrapped, _) in self._keys.items()}
        epochs |= {group: (epochs[group][0], "") for group in self._unused & epochs.keys()}
        sequence = (self._head.sequence if self._head else 0) + 1
        body = compartment_body(self._place.holder, self._place.dataset, versions, epochs)
        signed = head_statement(
            publisher,
            vault=self._parts.vault,
            kind="compartment",
            subject=self._compartment,
            sequence=sequence,
            body=body,
            frozen=False,
            now=self._parts.clock(),
        )
        return HeadRow(self._compartment, sequence, "compartment", False, signed.encode(), body)
