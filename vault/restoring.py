"""Restoring a vault whose directory and catalog are lost, from its store, its KMS and the owner's exported keys.

What is restored is the newest that the store has, and never anything older than what is known: by the heads and the
checkpoints in the store, and by the witness. All of the catalog comes in one transaction with the log's entry that says
so. Files come before it and the configuration after it, so that a run that is killed leaves no vault that would open,
and the same call goes on with what it left.
"""

import hmac
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from vault import deployment, keyfile
from vault import roots as _roots
from vault.audit import Kind, Pinned, Tail, read_checkpoint, sign_checkpoint, verify_hashes
from vault.catalog import BackupRow, Catalog, LogRow, LogTailRow, Transaction, open_catalog
from vault.deployment import MARKER, Configuration, WitnessPlace
from vault.encoding import is_id, new_id, utcnow
from vault.errors import IntegrityError, InvalidInput, KeyUnavailable, NotFound
from vault.kms import KeyState, keystore_folders
from vault.objects import ObjectStore, open_store
from vault.safekeeping import CONFIGURATION, KEYSTORE, Keys, note_exported, read_keys
from vault.trust import Label, Role, Root, Signed, Signer, open_roots
from vault.trust.root import encode_chain
from vault.workings.chain import Backup, read_backup
from vault.workings.files import put_file
from vault.workings.heads import Heads
from vault.workings.journal import Journal
from vault.workings.keyfolder import KeyFolder, kind_of
from vault.workings.names import holders
from vault.workings.parts import OwnerParts
from vault.workings.permissions import open_grant
from vault.workings.recounting import received, recount
from vault.workings.regained import Run, log_runs, marks, refuse_older, refuse_shorter
from vault.workings.roots import Roots, root_name

__all__ = ["Restored", "Source", "restore"]

_UNFINISHED: Final = ".restoring"
_ABOUT: Final = "restored"
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Source:
    """What a vault is restored from, and the catalog that it comes into (None: a file in its directory).

    ``keys`` is a file that `vault.safekeeping.export_keys` wrote, under ``passphrase``. Without it the owner's keys lie
    in the vault's directory already, and ``fingerprint`` says which root document is meant.
    """

    store: str
    kms: str
    catalog: str | None = None
    keys: Path | None = None
    passphrase: str | None = field(default=None, repr=False)
    fingerprint: str | None = None
    witness: str | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored: up to which administrative change and which log entry, and what is to be said besides."""

    vault: str
    change: int
    saved: str
    entries: int
    vendors: int
    datasets: int
    told: tuple[str, ...] = ()


def restore(folder: Path, source: Source, *, dry_run: bool = False) -> Restored:
    """Make a vault's directory and catalog anew; with ``dry_run`` only find out whether that could be done.

    May be killed, and the same call goes on. Raises InvalidInput for a directory or catalog that is in use, or a wrong
    passphrase; IntegrityError for a backup that was changed, is one of another vault, or is older than what is known;
    KeyUnavailable where a key is missing; Unavailable, also where the witness cannot be reached. There is no vault
    then.
    """
    keys = _keys(folder, source)
    fingerprint = _fingerprint(keys, source)
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="dsvault-") as aside:
            place = _Place(Path(aside), f"sqlite:///{aside}/catalog.db", "")
            return _Restoring(place, source, keys, fingerprint).check()
    return _Restoring(_begin(folder, source, fingerprint), source, keys, fingerprint).run()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a vault is restored to, and the id of this restoring."""

    folder: Path
    catalog: str
    id: str


def _begin(folder: Path, source: Source, fingerprint: str) -> _Place:
    """Take a directory, unless there is a vault in it; one that a killed run took for the same is gone on with."""
    unfinished = folder / _UNFINISHED
    if unfinished.exists():
        try:
            found = json.loads(unfinished.read_bytes())
            identifier, same = str(found["id"]), hmac.compare_digest(str(found["root_fingerprint"]), fingerprint)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"{unfinished}: this is not what a restore leaves; remove the directory") from error
        if not same:
            raise InvalidInput(f"{folder}: another vault was being restored here; remove the directory")
    else:
        parts = (folder / MARKER, folder / "owner" / "config.toml", folder / "broker" / "config.toml")
        if any(part.exists() for part in parts):
            raise InvalidInput(f"{folder}: there is a vault here already; give another directory")
        if source.keys is not None and any((folder / name).exists() for name in ("owner", "broker")):
            raise InvalidInput(f"{folder}: there is the rest of a vault here; give another directory")
        identifier = new_id()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        put_file(unfinished, json.dumps({"id": identifier, "root_fingerprint": fingerprint}).encode())
    for part in (folder / "owner", folder / "owner" / "keys", folder / "broker"):
        part.mkdir(mode=0o700, exist_ok=True)
    return _Place(folder, source.catalog or "sqlite:///catalog.db", identifier)


# The owner's keys


def _keys(folder: Path, source: Source) -> Keys:
    if source.keys is not None:
        return read_keys(source.keys, source.passphrase)
    if source.fingerprint is None:
        raise InvalidInput("--keys: give the file with the owner's keys, or --root-fingerprint where they are in DIR")
    paths = [*(folder / "owner" / "keys").rglob("*.json"), *(folder / "broker").glob("log*.json")]
    if not paths:
        raise InvalidInput(f"--keys: the owner's keys are not in {folder} either; give the file that holds them")
    texts = {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    return Keys("", source.fingerprint, "", texts)


def _fingerprint(keys: Keys, source: Source) -> str:
    given = source.fingerprint
    if given is not None and _FINGERPRINT.fullmatch(given) is None:
        raise InvalidInput("--root-fingerprint: give the 64 hex digits that 'dsvault root show' prints")
    if given is not None and not hmac.compare_digest(given, keys.root_fingerprint):
        raise InvalidInput("--root-fingerprint: the file with the keys is one of another vault")
    return keys.root_fingerprint


def _auditor_secrets(keys: Keys) -> tuple[bytes, ...]:
    """The auditors' private keys, which open the backup; they are opened where they are held, and nowhere written."""
    found = []
    for name, text in sorted(keys.files.items()):
        path = Path(name)
        if path.parts[:2] == ("owner", "keys") and path.name.startswith(Role.AUDITOR.value):
            file = keyfile.parse(path, text.encode())
            if file.header.kind == kind_of(Role.AUDITOR):
                found.append(file.open(deployment.passphrase()))
    if not found:
        raise KeyUnavailable("the auditor's key is not among the owner's keys, and the backup is sealed to it")
    return tuple(found)


# The store


def _absolute(url: str) -> str:
    """A plain path as it is meant where the command is run."""
    return url if "://" in url else os.path.abspath(url)


def _chain(store: ObjectStore, fingerprint: str) -> bytes:
    """The root documents in the store, from the pinned one on; raises NotFound and IntegrityError."""
    signed: list[Signed] = []
    while True:
        try:
            signed.append(Signed.decode(store.get(root_name(len(signed) + 1)), Label.ROOT))
        except NotFound:
            break
    if not signed:
        raise NotFound("--store: there is no vault's store here: it has no root document")
    if not hmac.compare_digest(signed[0].digest, fingerprint):
        raise IntegrityError("--store: this is the store of another vault than the keys are of")
    chain = encode_chain(signed)
    open_roots(chain, fingerprint)
    return chain


class _Restoring:
    """One restoring, from what is known to what there is."""

    def __init__(self, place: _Place, source: Source, keys: Keys, fingerprint: str) -> None:
        self._place = place
        self._source = source
        self._keys = keys
        self._store = open_store(_absolute(source.store))
        self._told: list[str] = []
        self._log_keys = KeyFolder(place.folder, deployment.passphrase())
        self._chain = _chain(self._store, fingerprint)
        self._fingerprint = fingerprint
        self._vault = open_roots(self._chain, fingerprint)[-1].vault
        if keys.vault and keys.vault != self._vault:
            raise IntegrityError("--store: this is the store of another vault than the keys are of")
        self._configuration = self._configured()
        self._witness = self._opened_witness()

    def _configured(self) -> Configuration:
        """The configuration that was exported, for where things are now; the owner's id is looked up where it lacks."""
        text = self._keys.files.get(CONFIGURATION)
        source = self._source
        if text is not None:
            found = Configuration.parse(text, Path(CONFIGURATION))
        else:
            found = Configuration(self._vault, "", "", "", deployment.DEFAULT_ENDPOINT, self._fingerprint, None)
        found = replace(found, store=_absolute(source.store), catalog=self._place.catalog, kms=source.kms)
        if source.witness is not None:
            required = found.witness is not None and found.witness.required
            found = replace(found, witness=WitnessPlace(_absolute(source.witness), required))
        return found

    def _opened_witness(self) -> ObjectStore | None:
        place = self._configuration.witness
        if place is None:
            return None
        if "://" not in place.url and not Path(place.url).is_absolute():
            # It lay in the directory that is lost, and what is there now says nothing.
            self._told.append("the witness was kept inside the vault's directory, and is lost with it")
            return None
        return open_store(place.url, "--witness")

    # The steps

    def check(self) -> Restored:
        """Read and verify everything into a catalog that is thrown away."""
        catalog = open_catalog(self._place.catalog)
        try:
            return self._filled(catalog, record=False)
        finally:
            catalog.close()

    def run(self) -> Restored:
        """Make the vault, and have it go on where it ended."""
        folder = self._place.folder
        self._place_keys(folder)
        catalog = deployment.catalog_of(folder, self._configuration)
        try:
            restored = self._filled(catalog, record=True)
            with catalog.read() as transaction:
                configuration = replace(self._configuration, owner=self._owner(transaction))
        finally:
            catalog.close()
        put_file(folder / "broker" / "config.toml", replace(configuration, owner=None).text().encode())
        put_file(folder / CONFIGURATION, configuration.text().encode())
        if self._keys.created:
            note_exported(folder, self._keys)
        self._go_on(deployment.open_owner(folder))
        put_file(folder / MARKER, f'# This directory is a dsvault vault.\nvault = "{self._vault}"\n'.encode())
        (folder / _UNFINISHED).unlink(missing_ok=True)
        return replace(restored, told=tuple(self._told))

    def _place_keys(self, folder: Path) -> None:
        """Put the key files in their places; in a keystore that is still there, what it has stays."""
        keystore = keystore_folders(self._source.kms, owner=folder / "owner", broker=folder / "broker")
        for name, text in self._keys.files.items():
            path = Path(name)
            if name == CONFIGURATION:
                continue
            if path.parts[0] != KEYSTORE:
                target = folder / path
            elif keystore is None:
                continue  # the KMS is another one now
            else:
                target = keystore[0 if path.parts[1] == "owner" else 1] / path.name
            keyfile.put_back(keyfile.parse(target, text.encode()))

    def _filled(self, catalog: Catalog, *, record: bool) -> Restored:
        """Fill a catalog in one transaction; one that this very restoring has filled already is as it was then."""
        before = self._filled_before(catalog)
        if before is not None:
            return before
        path = self._place.folder / "broker" / "root.json" if record else self._place.folder / "root.json"
        put_file(path, self._chain)
        roots = Roots(path, self._fingerprint, catalog, self._store)
        if record:
            self._log_signer(roots.known)  # without it nothing could be ended, and it is missing before much is read
        with roots.unasked():
            backup = read_backup(roots, self._store, self._secrets())
            known = marks(roots, self._store, self._witness, self._told.append)
            refuse_older(backup, known)
            journal = Journal(roots, catalog, self._store, self._log_signer, utcnow) if record else None
            filling = _Filling(roots, catalog, self._store, backup, known, journal, self._log_signer)

            def fill(transaction: Transaction) -> None:
                filling.fill(transaction)
                transaction.set_about(_ABOUT, f"{self._place.id} {backup.number} {filling.entries}")

            catalog.create(self._vault, fill, {_ABOUT: self._place.id})
        self._told += backup.junk
        return self._restored(catalog, backup.number, backup.created, filling.entries)

    def _secrets(self) -> tuple[bytes, ...]:
        return _auditor_secrets(self._keys)

    def _filled_before(self, catalog: Catalog) -> Restored | None:
        identifier, _, numbers = (catalog.about(_ABOUT) or "").partition(" ")
        if identifier and identifier == self._place.id:
            change, entries = numbers.split()
            return self._restored(catalog, int(change), "", int(entries))
        if catalog.tables():
            raise InvalidInput("--catalog: there are tables in it already; a vault is restored into an empty one")
        return None

    def _log_signer(self, root: Root) -> Signer:
        """The log key of a root document; its absence may mean that the export is from before a rotation."""
        try:
            return self._log_keys.signer(Role.LOG, root)
        except KeyUnavailable as error:
            when = f" of {self._keys.created[:19]}" if self._keys.created else ""
            raise KeyUnavailable(f"{error}; the export{when} may be from before the key was replaced") from error

    def _restored(self, catalog: Catalog, change: int, saved: str, entries: int) -> Restored:
        with catalog.read() as transaction:
            owner = self._owner(transaction)
            vendors = sum(1 for row in transaction.holders() if row.id != owner)
            datasets = len(transaction.datasets())
        return Restored(self._vault, change, saved, entries, vendors, datasets, tuple(self._told))

    def _owner(self, transaction: Transaction) -> str:
        """The owner's holder id: as it was exported, or the one holder that no head is about."""
        if self._configuration.owner is not None:
            return self._configuration.owner
        about = {subject for subject, _ in transaction.head_subjects()}
        found = [row.id for row in transaction.holders() if row.id not in about]
        if len(found) != 1 or not is_id(found[0]):
            raise IntegrityError("the backup does not say which holder is the owner; restore with --keys")
        return found[0]

    def _go_on(self, parts: OwnerParts) -> None:
        """Open the vault with the KMS, and leave in the store what follows a commit."""
        with parts.catalog.read() as transaction:
            people = holders(transaction, parts.sealer())
        for holder in people:
            for key in sorted(holder.every_kms_key):
                state = parts.kms.state(key)
                if holder.ended and state not in {KeyState.DESTROYED, KeyState.ABSENT}:
                    # An export from before the vendor was offboarded has brought it back.
                    parts.kms.destroy_key(key)
                elif state is KeyState.ABSENT and not holder.ended and key in holder.kms_keys:
                    self._told.append(
                        f"the KMS has no key of {holder.name!r}: was it made after the keys were exported? What is "
                        "under it cannot be read; 'dsvault vendor offboard' ends that vendor"
                    )
        _count_usage(parts)
        _regain_submissions(parts)
        _roots.reconcile(parts)
        parts.journal.settle()
        parts.backups.complete(snapshot=True)
        parts.catalog.close()


def _count_usage(parts: OwnerParts) -> None:
    """Charge limited grants with what the log says was served; one that is charged already was so by an earlier run."""
    with parts.catalog.read() as transaction:
        rows, sealer = transaction.grants(), parts.sealer()
        limited = {row.id for row in rows if open_grant(parts.root, row, sealer, own=False)[0].limits}
        limited = {grant for grant in limited if not any(transaction.usage(grant, "")[0].values())}
    if not limited:
        return
    used = recount(parts.journal.entries(parts.signers.keys.auditor_secrets()), limited)
    with parts.catalog.write() as transaction:
        for (grant, day), counts in used.items():
            transaction.add_usage(grant, day, counts)


def _regain_submissions(parts: OwnerParts) -> None:
    """Put those into quarantine again that came since the newest snapshot: the log has all but their objects."""
    rows = received(parts.journal.entries(parts.signers.keys.auditor_secrets()))
    with parts.catalog.write() as transaction:
        people = {row.id for row in transaction.holders()}
        for row in rows:
            granted = transaction.grants(vendor=row.vendor, dataset=row.dataset, grant=row.grant)
            if row.vendor in people and granted and transaction.submission(row.vendor, row.id) is None:
                transaction.add_submission(row)


class _Filling:
    """What is written into the new catalog, and what it is held to before that is committed."""

    def __init__(
        self,
        roots: Roots,
        catalog: Catalog,
        store: ObjectStore,
        backup: Backup,
        known: list[Pinned],
        journal: Journal | None,
        signer: Callable[[Root], Signer],
    ) -> None:
        self._roots = roots
        self._heads = Heads(roots, catalog, store)
        self._store = store
        self._backup = backup
        self._known = known
        self._journal = journal
        self._signer = signer
        self.entries = 0

    def fill(self, transaction: Transaction) -> None:
        """Every row, the log, and the entry that says so; raises IntegrityError where something newer is known."""
        backup = self._backup
        for rows in backup.rows():
            transaction.put_back(rows)
        transaction.set_backup(BackupRow(backup.number, backup.digest))
        end = self._put_log(transaction)
        refuse_older(backup, [Pinned(end.checkpoint, "the log in the store")])
        self._heads.refuse_behind(transaction)
        if backup.number:
            transaction.changed = (backup.number, backup.digest)
        if self._journal is not None:
            self._sign_end(transaction, end)
            self._journal.record_in(
                transaction,
                Kind.RESTORED,
                change=backup.number,
                digest=backup.digest.hex(),
                saved=backup.created,
                entries=self.entries,
            )

    def _put_log(self, transaction: Transaction) -> Run:
        """Write the log; returns its last run."""
        last: Run | None = None
        for run in log_runs(self._roots, self._store):
            rows = [LogRow(leaf.sequence, leaf.time, leaf.sealed, leaf.hash) for leaf in run.leaves]
            transaction.append_log(rows, LogTailRow(run.note, b"".join(run.edge.hashes)))
            last = run
        if last is None:
            raise IntegrityError("the store holds nothing of the vault's log")
        self.entries = last.edge.size
        refuse_shorter(self.entries, self._known)
        verify_hashes(self._pages(transaction), Tail(last.checkpoint, last.edge), self._known)
        return last

    def _sign_end(self, transaction: Transaction, end: Run) -> None:
        """Have the log end under a key that counts: its own may have been replaced just before the loss."""
        root = self._roots.seen_by(transaction)
        try:
            read_checkpoint(root, end.note)
        except IntegrityError:
            note = sign_checkpoint(root.vault, end.checkpoint, self._signer(root))
            transaction.append_log([], LogTailRow(note, b"".join(end.edge.hashes)))

    def _pages(self, transaction: Transaction) -> Iterator[list[bytes]]:
        for after in range(0, self.entries, _PAGE):
            yield transaction.log_hashes(after, min(after + _PAGE, self.entries))
