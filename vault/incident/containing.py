"""From alarm to contained: one call that stops a vendor, makes its keys worthless, and proves both.

The freeze comes first and counts by itself within a second, whatever happens after it. Then, in this order: every grant
and every credential ends, its compartments are rekeyed, its data keys move to a new KMS key and the old ones are
disabled, what is live is proven to be under the new keys, and what is not is removed from the store. Each step looks at
what there is before it acts, and is written down and logged when it is done (`vault.workings.containment`): the call
may be killed at any moment, and the same call goes on. Nothing here ever thaws anything.

Freezing and ending need the responder's key, rekeying the publisher's, and the evidence the authority's and the
auditor's. Whatever key is missing, what can be done without it has been done, and the error says what is left.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from vault.audit import Kind
from vault.catalog import Transaction
from vault.collect import collect
from vault.encoding import json_bytes, timestamp
from vault.errors import IntegrityError, NotFound, VaultError
from vault.incident.bundle import Bundled, check_target, make_bundle
from vault.incident.coverage import Place, cover, has_moved, left_behind
from vault.incident.wording import plural
from vault.kms import KeyState
from vault.model import FORMAT
from vault.rewrap import disable_keys, rewrap
from vault.rotate import plan, rekey
from vault.trust import VendorHead
from vault.vendors import freeze
from vault.workings.containment import Case, open_case
from vault.workings.names import Holder, datasets, holder_by_id
from vault.workings.parts import OwnerParts
from vault.workings.permissions import next_vendor_head, open_grant
from vault.workings.steps import announce, present_vendor

__all__ = ["Contained", "Told", "contain", "coverage_document", "places_of"]

_TRIES = 3
Progress = Callable[[int, int], None]
Told = Callable[[str], None]
#: What there is to do, in order, as it is said to a person.
_STEPS: Final = (
    "freeze",
    "end its grants",
    "end its credentials",
    "rekey its data",
    "move its data keys to a new KMS key and disable the old ones",
    "prove that what is live is under the new keys",
    "remove what is not",
    "the evidence bundle",
)


@dataclass(frozen=True, slots=True)
class Contained:
    """What containment did, in all the runs that it took.

    ``coverage`` is the SHA-256 of the coverage proof, which the log has too; ``in_doubt`` the sentences that say why
    some objects could not be told to be anybody's. ``changed`` is False where everything had been done before.
    """

    vendor: str
    vendor_id: str
    grants: int
    credentials: int
    chunks: int
    bytes: int
    data_keys: int
    kms_keys: tuple[str, ...]
    new_kms_key: str
    coverage: str
    changed: bool
    in_doubt: tuple[str, ...] = ()
    bundle: Bundled | None = None


class _Course:
    """How far a run has come: what fails is told with what is done and what is left."""

    def __init__(self, name: str, told: Told, steps: Sequence[str]) -> None:
        self._name = name
        self._told = told
        self._steps = steps
        self._done = 0

    def did(self, sentence: str) -> None:
        """The next step is done."""
        self._done += 1
        self._told(sentence)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Note on whatever is raised how far it came; before the freeze there is nothing to say."""
        try:
            yield
        except BaseException as error:
            if self._done:
                done, left = ", ".join(self._steps[: self._done]), ", ".join(self._steps[self._done :])
                error.add_note(
                    f"done: {done}; left: {left}; '{self._name}' stays frozen, and the same command goes on from there"
                )
            raise


def contain(
    parts: OwnerParts,
    vendor_name: str,
    names: Sequence[str] | None = None,
    *,
    grace: timedelta,
    progress: Progress = lambda _done, _total: None,
    told: Told = lambda _sentence: None,
    bundle: Path | None = None,
) -> Contained:
    """Contain a vendor, in all its compartments or those of the named datasets.

    ``grace`` is how long gc leaves what others had superseded, whose streams go on; what was the vendor's goes at once.
    ``progress`` is told the (bytes rekeyed, bytes in all), ``told`` a sentence for each step, and ``bundle`` is where
    the evidence goes. Raises NotFound, InvalidInput, Conflict, KeyUnavailable, KmsError, IntegrityError and
    Unavailable, each with a note of what is done and left.
    """
    course = _Course(vendor_name, told, _STEPS if bundle is not None else _STEPS[:-1])
    with course.telling():
        changed = freeze(parts, vendor_name)
        course.did(f"{'froze' if changed else 'found frozen:'} {vendor_name}; nothing more is served to it")
        if bundle is not None:
            check_target(bundle)
        vendor = present_vendor(parts, vendor_name)
        places = places_of(parts, vendor, names)
        case = open_case(parts, vendor, None if names is None else frozenset(place.dataset.id for place in places))
        try:
            was_over = case.is_over
            _contain(parts, vendor, places, case, course, grace, progress)
            made = None
            if bundle is not None:
                made = make_bundle(parts, vendor, case, coverage_document(parts, case), bundle)
                course.did(f"wrote the evidence to {bundle}: {made.entries} entries, {made.bytes} bytes")
        except BaseException:
            with suppress(VaultError):
                case.pause()
            raise
    return _result(case, vendor, made, changed=not was_over)


def _contain(
    parts: OwnerParts,
    vendor: Holder,
    places: Sequence[Place],
    case: Case,
    course: _Course,
    grace: timedelta,
    progress: Progress,
) -> None:
    grants = _end(parts, vendor, case, "grants", _end_grants)
    course.did(f"ended {plural(grants, 'grant')}")
    credentials = _end(parts, vendor, case, "credentials", _end_credentials)
    course.did(f"ended {plural(credentials, 'credential')}")
    figures = _rekey(parts, vendor, places, case, progress)
    course.did(f"rekeyed {plural(figures['chunks'], 'chunk')}, {figures['bytes']} bytes")
    figures = _rewrap(parts, vendor, case)
    course.did(f"moved {plural(figures['data_keys'], 'data key')} to a new KMS key, and disabled the old ones")
    if "covered" not in case.done:
        case.note("covered", cover(parts, places, case.before))
    course.did("every live chunk opens under its new key, and under none of before")
    if "collected" not in case.done:
        case.note("collected", _collect(parts, vendor, places, case, grace))
    course.did("nothing of before is left")
    _finish(parts, case)


def places_of(parts: OwnerParts, vendor: Holder, names: Sequence[str] | None) -> list[Place]:
    """A vendor's compartments, or those of the named datasets; raises NotFound for a name that is none."""
    with parts.catalog.read() as transaction:
        known = {dataset.id: dataset for dataset in datasets(transaction, parts.sealer(), deleted_too=True)}
        rows = transaction.compartments(holder=vendor.id)
    present = {dataset.name for dataset in known.values() if not dataset.deleted}
    for name in names or ():
        if name not in present:
            raise NotFound(f"--dataset: there is no dataset named '{name[:80]}'")
    return [
        Place(row, known[row.dataset])
        for row in rows
        if names is None or (known[row.dataset].name in names and not known[row.dataset].deleted)
    ]


# Grants and credentials

_Change = Callable[[OwnerParts, Transaction, Holder, VendorHead], tuple[dict[str, Any] | None, int]]


def _end(parts: OwnerParts, vendor: Holder, case: Case, what: str, change: _Change) -> int:
    """End all of something in one step of the vendor's head, which the responder signs; how many, in all runs."""
    head = None
    with parts.catalog.write() as transaction:
        present = parts.heads.vendor_in(transaction, vendor.id)
        changes, ended = change(parts, transaction, vendor, present)
        if changes is not None:
            responder = parts.signers.responder()
            head = next_vendor_head(parts, responder, present, vendor.id, by_authority=False, **changes)
            transaction.add_head(head)
        case.note_in(transaction, what, {"ended": ended})
    if head is not None:
        announce(parts, head)
    else:
        # Done before, perhaps by a run that was killed between the catalog and the store.
        parts.heads.reconcile()
        parts.journal.checkpoint()
    with parts.catalog.read() as transaction:
        parts.keyring.drop(row.id for row in transaction.compartments(holder=vendor.id))
    return int(case.done[what]["ended"])


def _end_grants(
    parts: OwnerParts, transaction: Transaction, vendor: Holder, head: VendorHead
) -> tuple[dict[str, Any] | None, int]:
    """Every grant that the head lists, and every pending one, which could be finished later."""
    rows = {row.id: row for row in transaction.grants(vendor=vendor.id)}
    pending = {row.id for row in rows.values() if row.settled is None and row.id not in head.grants}
    for grant in pending:
        transaction.settle_grant(grant, timestamp(parts.clock()))
    sealer = parts.sealer()
    for grant in sorted(head.grants.keys() | pending):
        about: dict[str, str | None] = {"dataset": None, "dataset_id": None}
        # It ends, whatever was done to its row.
        with suppress(IntegrityError):
            if grant in rows:
                found, _ = open_grant(parts.root, rows[grant], sealer, own=False)
                about = {"dataset": found.dataset_name, "dataset_id": found.dataset}
        said = {"vendor": vendor.name, "vendor_id": vendor.id, "grant": grant, **about}
        parts.journal.record_in(transaction, Kind.REVOKED, **said)
    return ({"grants": {}} if head.grants else None), len(head.grants.keys() | pending)


def _end_credentials(
    parts: OwnerParts, transaction: Transaction, vendor: Holder, head: VendorHead
) -> tuple[dict[str, Any] | None, int]:
    """Every credential, and every identity provider of the vendor's."""
    for credential in sorted(head.credentials):
        parts.journal.record_in(
            transaction, Kind.CREDENTIAL_REVOKED, vendor=vendor.name, vendor_id=vendor.id, credential=credential
        )
    return ({"credentials": {}} if head.credentials else None), len(head.credentials)


# Keys


def _rekey(
    parts: OwnerParts, vendor: Holder, places: Sequence[Place], case: Case, progress: Progress
) -> Mapping[str, Any]:
    """Rekey the compartments that are not under new keys yet."""
    waiting = [place for place in places if not has_moved(parts, place, case.before)]
    if waiting:
        parts.signers.publisher()  # where it is missing nothing is begun
    sizes = [sum(each.bytes for each in plan(parts, vendor.name, place.dataset.name)) for place in waiting]
    behind = 0
    for place, size in zip(waiting, sizes, strict=True):

        def on_progress(done: int, _total: int, behind: int = behind) -> None:
            case.beat()
            progress(behind + done, sum(sizes))

        rekey(parts, vendor.name, place.dataset.name, progress=on_progress)
        behind += size
    if "rekeyed" not in case.done:
        case.note("rekeyed", _rekeyed(parts, vendor, places, case))
    return case.done["rekeyed"]


def _rekeyed(parts: OwnerParts, vendor: Holder, places: Sequence[Place], case: Case) -> dict[str, Any]:
    """What is under new keys, by what there is: the same whichever run did it."""
    moved = []
    for place in places:
        with parts.catalog.read() as transaction:
            head = parts.heads.compartment_in(transaction, place.row)
        then = case.before.epochs.get(place.row.id, {})
        live = head.live_groups if head is not None else frozenset()
        epochs = {group: [then.get(group, 0), head.epochs[group][0]] for group in sorted(live)} if head else {}
        moved.append(
            {
                "compartment": place.row.id,
                "dataset": place.dataset.name,
                "dataset_id": place.dataset.id,
                "epochs": epochs,
            }
        )
    there = [
        each for place in places if not place.dataset.deleted for each in plan(parts, vendor.name, place.dataset.name)
    ]
    return {
        "compartments": moved,
        "chunks": sum(each.chunks for each in there),
        "bytes": sum(each.bytes for each in there),
    }


def _rewrap(parts: OwnerParts, vendor: Holder, case: Case) -> Mapping[str, Any]:
    """Move the data keys to a KMS key of after the incident, unless they are under one, and disable those of before."""
    holder = _holder(parts, vendor)
    if holder.kms_key == case.before.kms_key:
        rewrap(parts, vendor.name, disable_old=True)
        holder = _holder(parts, vendor)
    disable_keys(parts, holder, holder.earlier)
    if any(parts.kms.state(key) is KeyState.ENABLED for key in holder.earlier):
        raise IntegrityError(f"a KMS key of '{vendor.name}' of before the incident is still enabled")
    if "rewrapped" not in case.done:
        with parts.catalog.read() as transaction:
            count = len(transaction.keys_of_holder(vendor.id))
        case.note("rewrapped", {"old": list(holder.earlier), "new": holder.kms_key, "data_keys": count})
    return case.done["rewrapped"]


def _holder(parts: OwnerParts, vendor: Holder) -> Holder:
    with parts.catalog.read() as transaction:
        return holder_by_id(transaction, parts.sealer(), vendor.id)


# The rest


def _collect(
    parts: OwnerParts, vendor: Holder, places: Sequence[Place], case: Case, grace: timedelta
) -> dict[str, Any]:
    for left in reversed(range(_TRIES)):
        collect(parts, grace, at_once=vendor.id)
        case.beat()
        try:
            return left_behind(parts, vendor, places, case.before)
        except IntegrityError:
            # Somebody else's job may have ended in between, and left what it wrote.
            if not left:
                raise
    raise AssertionError


def coverage_document(parts: OwnerParts, case: Case) -> bytes:
    """The coverage proof as the evidence has it: the same bytes whenever it is asked for."""
    return json_bytes(
        {
            "format": list(FORMAT),
            "type": "coverage",
            "vault": parts.vault,
            "vendor_id": case.before.vendor,
            "began": case.before.began,
            "before": case.before.epochs,
            "kms": {"old": case.done["rewrapped"]["old"], "new": case.done["rewrapped"]["new"]},
            "covered": case.done["covered"],
            "left": case.done["collected"],
        }
    )


def _finish(parts: OwnerParts, case: Case) -> None:
    digest = hashlib.sha256(coverage_document(parts, case)).hexdigest()
    case.end(
        {
            "grants": case.done["grants"]["ended"],
            "credentials": case.done["credentials"]["ended"],
            "chunks": case.done["rekeyed"]["chunks"],
            "bytes": case.done["rekeyed"]["bytes"],
            "data_keys": case.done["rewrapped"]["data_keys"],
            "coverage": digest,
        }
    )
    parts.journal.checkpoint()


def _result(case: Case, vendor: Holder, made: Bundled | None, *, changed: bool) -> Contained:
    ended = case.done["contained"]
    moved = case.done["rewrapped"]
    return Contained(
        vendor.name,
        vendor.id,
        ended["grants"],
        ended["credentials"],
        ended["chunks"],
        ended["bytes"],
        ended["data_keys"],
        tuple(moved["old"]),
        moved["new"],
        ended["coverage"],
        changed,
        tuple(case.done["collected"]["why"]),
        made,
    )
