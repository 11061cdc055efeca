"""Versions: from a verified head to the chunks of a manifest.

The order is always the same: a verified head pins the manifest's statement, the statement pins the object, the manifest
pins its parts, and a part pins chunks and their epoch.
"""

import hashlib
import hmac
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import pyarrow as pa

from vault.catalog import CompartmentRow, Transaction
from vault.derivation import chunk_key
from vault.errors import Conflict, IntegrityError, NotFound
from vault.keyring import KeySource, ScopedKeyring, WrappedKey
from vault.manifest import ChunkRef, Listing, Manifest, Part, Shard, decode_manifest, decode_part
from vault.model import MANIFEST_GROUP, ChunkIdentity
from vault.trust import CompartmentHead, Label, ManifestStatement, Role, Signed
from vault.workings.parts import Parts, wrapped_key

__all__ = [
    "OpenManifest",
    "OpenVersion",
    "PartLoader",
    "agree",
    "live_keys",
    "live_versions",
    "manifest_statement",
    "open_manifest",
    "open_version",
    "side_by_side",
]

_TRIES = 5


@final
class PartLoader:
    """Opens the parts of one manifest, which are under the same key as the manifest itself."""

    def __init__(self, parts: Parts, keys: KeySource, key: WrappedKey) -> None:
        self._parts = parts
        self._keys = keys
        self._key = key

    def __call__(self, part: Part) -> Listing:
        """A part's chunks; raises IntegrityError, NotFound, Unavailable or KmsError."""
        if part.listing is not None:
            return part.listing
        place = part.place
        if place is None or place.epoch != self._key.scope.epoch:
            raise IntegrityError("a part of a manifest is not under the live epoch of its compartment")
        kept = self._parts.manifests.listing(place.sha256)
        if kept is not None:
            return kept
        data = self._parts.store.get(place.object)
        if len(data) != place.size or not hmac.compare_digest(hashlib.sha256(data).hexdigest(), place.sha256):
            raise IntegrityError("a part of a manifest in the store is not the one that was signed")
        identity = ChunkIdentity(self._key.scope, place.chunk)
        listing = decode_part(data, chunk_key(self._keys.open(self._key), identity), identity, part)
        self._parts.manifests.keep_listing(place.sha256, listing)
        return listing

    def all(self, wanted: Sequence[Part]) -> list[Listing]:
        """Several parts, fetched and opened in parallel."""
        if sum(part.listing is None for part in wanted) < 2:
            return [self(part) for part in wanted]
        return list(self._parts.engine.map(self, wanted))


@dataclass(frozen=True, slots=True)
class OpenManifest:
    """A manifest that was opened, and how to open its parts."""

    manifest: Manifest
    load: PartLoader = field(repr=False, compare=False)

    def listing(self, group: str, shards: pa.Array | None = None) -> Listing | None:
        """The chunks of a column group, of all shards or of these; None where there are none at all.

        Raises IntegrityError, NotFound, Unavailable or KmsError.
        """
        parts = self.manifest.parts_of(group)
        if shards is not None:
            parts = [part for part in parts if _overlaps(part, shards)] or parts[:1]
        found = self.load.all(parts)
        if not found:
            return None
        whole = Listing.joined(found)
        return whole if shards is None else whole.within(shards)

    def refs(self, groups: Collection[str] | None = None) -> Iterator[ChunkRef]:
        """Every chunk of these groups, by default of all, part by part."""
        for part in self.manifest.parts:
            if groups is None or part.group in groups:
                yield from self.load(part).refs()


@dataclass(frozen=True, slots=True)
class OpenVersion(OpenManifest):
    """A live version of a compartment: its manifest, the head that pins it, and its wrapped keys by group."""

    head: CompartmentHead
    keys: Mapping[str, WrappedKey]

    def shards(self, groups: Collection[str] | None = None) -> Iterator[Shard]:
        """The shards in order, with the chunks of these groups (by default all); raises IntegrityError."""
        wanted = sorted(self.manifest.groups if groups is None else groups)
        return side_by_side({group: found for group in wanted if (found := self.listing(group)) is not None})


def _overlaps(part: Part, shards: pa.Array) -> bool:
    """Whether one of these shards, in ascending order, may be in a part."""
    place = int(shards.to_numpy(zero_copy_only=False).searchsorted(part.first))
    return place < len(shards) and shards[place].as_py() <= part.last


def side_by_side(listings: Mapping[str, Listing]) -> Iterator[Shard]:
    """The shards of several groups' listings, made as they are asked for; raises IntegrityError as `agree` does."""
    agree(listings)
    return _shards(listings)


def agree(listings: Mapping[str, Listing]) -> None:
    """Raises IntegrityError where groups do not agree on what shards there are, their rows, and whose they are."""
    if not listings:
        return
    first, *others = listings.values()
    for name, what in (("shard", "what shards there are"), ("rows", "their rows"), ("assigned", "whose they are")):
        column = first.table.column(name)
        if any(not other.table.column(name).equals(column) for other in others):
            raise IntegrityError(f"the columns of a manifest do not agree on {what}")


def _shards(listings: Mapping[str, Listing]) -> Iterator[Shard]:
    for refs in zip(*(listing.refs() for listing in listings.values()), strict=True):
        ref = refs[0]
        yield Shard(ref.shard, ref.rows, ref.assigned, dict(zip(listings, refs, strict=True)))


def live_keys(
    parts: Parts, transaction: Transaction, head: CompartmentHead, groups: frozenset[str]
) -> dict[str, WrappedKey]:
    """The wrapped live key of each group; raises IntegrityError where the catalog contradicts the head."""
    rows = {(row.group, row.epoch): row for row in transaction.keys(head.compartment)}
    keys = {}
    for group in groups:
        if group not in head.live_groups:
            raise IntegrityError("a compartment's head names no key for one of its column groups")
        epoch, key_id = head.epochs[group]
        row = rows.get((group, epoch))
        if row is None or not hmac.compare_digest(row.key_id, key_id):
            raise IntegrityError("the catalog's key of a column group is not the one that its head names")
        keys[group] = wrapped_key(parts.vault, row)
    return keys


def manifest_statement(
    parts: Parts, transaction: Transaction, head: CompartmentHead, version: int
) -> ManifestStatement:
    """The statement of a live version, verified against the head; raises NotFound or IntegrityError."""
    if version not in head.versions:
        raise NotFound(f"there is no version {version}")
    for row in transaction.versions(head.compartment, version):
        if row.retired is not None:
            continue
        signed = Signed.decode(row.statement, Label.MANIFEST)
        if not hmac.compare_digest(signed.digest, head.versions[version]):
            break
        parts.root.verify(signed, Role.PUBLISHER)
        statement = ManifestStatement.parse(signed)
        if (statement.vault, statement.compartment, statement.version) != (
            parts.vault,
            head.compartment,
            version,
        ):
            break
        return statement
    raise IntegrityError("the catalog's manifest of a version is not the one that its head names")


def open_manifest(parts: Parts, keys: KeySource, key: WrappedKey, statement: ManifestStatement) -> OpenManifest:
    """Fetch, check and open a manifest; raises IntegrityError, NotFound, Unavailable or KmsError."""
    manifest = parts.manifests.get(statement.sha256)
    if manifest is None:
        manifest = _open(parts, keys, key, statement)
        parts.manifests.keep(statement.sha256, manifest)
    return OpenManifest(manifest, PartLoader(parts, keys, key))


def _open(parts: Parts, keys: KeySource, key: WrappedKey, statement: ManifestStatement) -> Manifest:
    data = parts.store.get(statement.object)
    if len(data) != statement.size or not hmac.compare_digest(hashlib.sha256(data).hexdigest(), statement.sha256):
        raise IntegrityError("a manifest in the store is not the one that was signed")
    if key.scope.group != MANIFEST_GROUP or key.scope.epoch != statement.epoch:
        raise IntegrityError("a manifest is not under the live epoch of its compartment")
    identity = ChunkIdentity(key.scope, statement.chunk)
    manifest = decode_manifest(data, chunk_key(keys.open(key), identity), identity)
    if manifest.version != statement.version:
        raise IntegrityError("a manifest is that of another version")
    return manifest


def open_version(
    parts: Parts, keys: KeySource | None, place: CompartmentRow, version: int | None = None
) -> OpenVersion:
    """Open a live version of a compartment, by default the newest; raises NotFound and others.

    Without ``keys`` the manifest's key is opened, and no other could be.
    """

    def read(transaction: Transaction) -> tuple[CompartmentHead, ManifestStatement, dict[str, WrappedKey]]:
        head = parts.heads.compartment_in(transaction, place)
        wanted = version if version is not None else (head.newest if head else None)
        if head is None or wanted is None:
            raise NotFound("there is no version")
        statement = manifest_statement(parts, transaction, head, wanted)
        return head, statement, live_keys(parts, transaction, head, head.live_groups)

    head, statement, wrapped = parts.heads.reading(read)
    if MANIFEST_GROUP not in wrapped:
        raise IntegrityError("a compartment's head names no key for its manifests")
    own = wrapped[MANIFEST_GROUP]
    opened = open_manifest(parts, keys or ScopedKeyring(parts.keyring, (own.scope,)), own, statement)
    if not opened.manifest.groups <= wrapped.keys():
        raise IntegrityError("a compartment's head names no key for one of its column groups")
    return OpenVersion(opened.manifest, opened.load, head, wrapped)


def live_versions(parts: Parts, place: CompartmentRow) -> tuple[CompartmentHead | None, list[OpenVersion]]:
    """A compartment's head and every live version under it, oldest first; raises Conflict when it keeps moving."""
    for _ in range(_TRIES):
        head = parts.heads.compartment(place)
        if head is None:
            return None, []
        try:
            found = [open_version(parts, parts.keyring, place, number) for number in sorted(head.versions)]
        except NotFound:
            # A version that was taken away since; what an unchanged head names and is not there is no such thing.
            if parts.heads.compartment(place) == head:
                raise
            continue
        if all(version.head.digest == head.digest for version in found):
            return head, found
    raise Conflict("the compartment keeps changing; try again")
