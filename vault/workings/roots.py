"""The root document of an open vault: its whole chain of versions, followed while the process runs.

The pinned fingerprint says what version 1 is; every later version is believed only where it follows from the one
before it. New versions come from the catalog, and the store says now and then whether the catalog kept one back.
What was seen once is remembered for the life of the process: a catalog that is behind it was rolled back, and another
document under a known number is a fork. Both are refused. Specified in ``docs/reference/format.md`` section 3.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from vault.catalog import Catalog, Transaction
from vault.encoding import new_id
from vault.errors import Conflict, IntegrityError, NotFound, Unavailable
from vault.objects import ObjectStore
from vault.trust import Label, Role, RoleKeys, Root, Signed, Signer
from vault.trust.root import decode_chain, encode_chain, follow, read_proposal

__all__ = ["GLANCE_SECONDS", "ROOT_AGE_SECONDS", "Roots", "root_name"]

#: How old the root document may be when a signature is judged by it.
ROOT_AGE_SECONDS = 1.0
#: For how long a store that is not well is asked whether it knows more than the catalog: others wait meanwhile, and
#: where it does not answer the catalog counts, and it is asked again.
GLANCE_SECONDS = 1.0
#: How often the store is asked whether it knows a version that the catalog keeps back.
_STORE_SECONDS = 60.0
_FOLDER = "roots"
_FORKED = "two different root documents carry one number: the chain was forked"


def root_name(version: int) -> str:
    """The object that holds a version."""
    return f"{_FOLDER}/{version:020d}"


class Roots:
    """The newest verified root document, with the questions that `Root` answers. Safe for use from several threads."""

    def __init__(
        self,
        path: Path | None,
        fingerprint: str,
        catalog: Catalog,
        store: ObjectStore,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Begin with the chain in a file, which may be behind; raises IntegrityError and OSError.

        Without a file the catalog's chain is the first that is seen, and only the store could tell that versions were
        taken from its end: one that cannot be asked is Unavailable then.
        """
        self.fingerprint = fingerprint
        self._path = path
        self._catalog = catalog
        self._store = store
        self._glance = store.within(GLANCE_SECONDS)
        self._clock = clock
        self._lock = threading.RLock()
        self._chain: list[Signed] = []
        self._roots: list[Root] = []
        self._agreed = b""
        self._read_at: float | None = None
        self._asked_store: float | None = None
        self._unasked = False
        for signed in decode_chain(path.read_bytes()) if path is not None else self._in_catalog():
            self._take(signed)
        if path is None:
            if not self._compare_newest():
                raise IntegrityError("the store has no root document, by which the catalog's could be judged")
            self._asked_store = self._clock()

    @property
    def vault(self) -> str:
        """The vault's id."""
        return self._roots[0].vault

    @property
    def version(self) -> int:
        """The newest version's number."""
        return self.current.version

    @property
    def roles(self) -> Mapping[Role, RoleKeys]:
        """The newest version's roles."""
        return self.current.roles

    def ask_store(self) -> None:
        """Raise NotFound, Unavailable or IntegrityError unless the store has the pinned version."""
        if Signed.decode(self._glance.get(root_name(1)), Label.ROOT).digest != self.fingerprint:
            raise IntegrityError(_FORKED)

    @property
    def current(self) -> Root:
        """The newest version, read at most a second ago; raises IntegrityError or Unavailable."""
        read_at = self._read_at
        if self._unasked or (read_at is not None and self._clock() - read_at <= ROOT_AGE_SECONDS):
            return self._roots[-1]
        return self.refresh()

    @contextmanager
    def unasked(self) -> Iterator[None]:
        """Judge by what is known, without asking the catalog: for who is about to make one out of a backup."""
        self._unasked = True
        try:
            yield
        finally:
            self._unasked = False

    @property
    def known(self) -> Root:
        """The newest version that was seen so far, without asking anybody."""
        return self._roots[-1]

    @property
    def earlier(self) -> Sequence[Root]:
        """Every version before the newest, newest first: what their keys signed counts for nothing any more."""
        return self._roots[-2::-1]

    def refresh(self) -> Root:
        """The newest version, read now."""
        with self._catalog.read() as transaction:
            return self.seen_by(transaction)

    def seen_by(self, transaction: Transaction) -> Root:
        """The newest version as a transaction sees it; raises IntegrityError on a rollback or a fork.

        What a transaction reads is judged by the root document of that same transaction, so that a rotation that
        commits at this moment is seen whole or not at all.
        """
        found: Root | None = transaction.memo.get("root")
        if found is not None:
            return found
        row = transaction.newest_root()
        now = self._clock()
        with self._lock:
            if row is None or row.version < self.known.version:
                raise IntegrityError("the catalog is behind the newest root document: it was rolled back")
            if row.version > self.known.version:
                for each in transaction.roots(self.known.version):
                    self._take(Signed.decode(each.statement, Label.ROOT))
            if row.statement != self._agreed and self._digest_of(row.statement) != self.known.digest:
                raise IntegrityError(_FORKED)
            self._agreed = row.statement
            self._ask_store()
            self._read_at = now
            transaction.memo["root"] = self.known
            return self.known

    @staticmethod
    def _digest_of(statement: bytes) -> str:
        return Signed.decode(statement, Label.ROOT).digest

    def _take(self, signed: Signed) -> None:
        root = follow(self._roots[-1] if self._roots else None, signed, self.fingerprint)
        self._chain.append(signed)
        self._roots.append(root)

    def _in_catalog(self) -> list[Signed]:
        with self._catalog.read() as transaction:
            rows = transaction.roots(0)
        if not rows:
            raise IntegrityError("the catalog has no root document")
        return [Signed.decode(row.statement, Label.ROOT) for row in rows]

    def _ask_store(self) -> None:
        """Refuse a catalog that keeps back what the store has; a store that cannot be reached is asked later."""
        now = self._clock()
        if self._asked_store is not None and now - self._asked_store < _STORE_SECONDS:
            return
        try:
            self._compare_newest()
        except Unavailable:
            return
        self._asked_store = now

    def _compare_newest(self) -> bool:
        """Refuse a catalog that is behind the store; whether the store has a root document at all."""
        newest = max((info.name for info in self._glance.list(_FOLDER)), default=None)
        if newest is not None:
            self._compare(newest)
        return newest is not None

    def _compare(self, name: str) -> None:
        signed = Signed.decode(self._store.get(name), Label.ROOT)
        claimed = read_proposal(signed, self.fingerprint)
        if name != root_name(claimed.version):
            raise IntegrityError("a root document in the store does not carry the number that it lies under")
        if claimed.version <= self.known.version:
            if signed.digest != self._roots[claimed.version - 1].digest:
                raise IntegrityError(_FORKED)
            return
        try:
            for version in range(self.known.version + 1, claimed.version + 1):
                self._take(Signed.decode(self._store.get(root_name(version)), Label.ROOT))
        except NotFound as error:
            raise IntegrityError("the versions of the root document in the store do not follow one another") from error
        raise IntegrityError("the catalog is behind the root document in the store: it was rolled back")

    def verify(self, signed: Signed, *allowed: Role) -> Role:
        """As `Root.verify`; what fails is looked at again by the root document of this moment."""
        root = self.current
        try:
            return root.verify(signed, *allowed)
        except IntegrityError:
            fresh = self.refresh()
            if fresh.version == root.version:
                raise
            return fresh.verify(signed, *allowed)

    @property
    def protected(self) -> Mapping[str, int]:
        """The newest version's protected datasets."""
        return self.current.protected

    def missing(self, signed: Signed, dataset: str) -> int:
        """As `Root.missing`; what lacks signatures is looked at again by the root document of this moment."""
        root = self.current
        lacking = root.missing(signed, dataset)
        if lacking and (fresh := self.refresh()).version != root.version:
            return fresh.missing(signed, dataset)
        return lacking

    def public_key(self, role: Role) -> bytes:
        """As `Root.public_key`."""
        return self.current.public_key(role)

    def refuse_replaced(self, signer: Signer, *roles: Role) -> None:
        """Raise Conflict when a signer's key was replaced since the act began; nobody would believe its statement."""
        if not any(self.known.holds(role, signer.key_id) for role in roles):
            raise Conflict("a signing key was replaced in the meantime; try again")

    def refuse_outdated(self, transaction: Transaction, signed: Signed, *roles: Role) -> None:
        """Raise Conflict when a statement that is about to be written was signed by a key replaced since."""
        try:
            self.seen_by(transaction).verify(signed, *roles)
        except IntegrityError as error:
            raise Conflict("a signing key was replaced in the meantime; try again") from error

    def ever_held(self, role: Role, key: str) -> bool:
        """Whether a key was a role's in any version."""
        return any(root.holds(role, key) for root in self._roots)

    # What the owner does after a change

    def announce(self) -> None:
        """Put the versions that the store lacks into it; raises IntegrityError where another object is in the way."""
        missing = []
        for version in range(self.known.version, 0, -1):
            if self._store.size(root_name(version)) is not None:
                break
            missing.append(version)
        for version in reversed(missing):
            self._put(version)
        self._compare(root_name(self.known.version))

    def _put(self, version: int) -> None:
        try:
            self._store.put(root_name(version), self._chain[version - 1].encode())
        except Conflict:
            self._compare(root_name(version))

    def chain_bytes(self) -> bytes:
        """Every version, in the file form of a chain."""
        return encode_chain(self._chain)

    @property
    def is_saved(self) -> bool:
        """Whether the file that brokers start from has the newest version; none is behind where there is none."""
        return self._path is None or len(decode_chain(self._path.read_bytes())) >= self.known.version

    def save(self) -> None:
        """Bring the file that brokers start from up to date, at once or not at all."""
        if self._path is None:
            return
        temporary = self._path.with_name(f".root-{new_id()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(self.chain_bytes())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def __repr__(self) -> str:
        return f"Roots(version={self.known.version})"
