"""Checking an evidence bundle without the vault: no configuration, no network, no key but those that are in it.

Everything is believed for one of two reasons: the root document's fingerprint, which whoever checks has from elsewhere,
or a hash that something believed names. From the root document come the authority's key (the bundle), the log's (the
checkpoints) and the publisher's and responder's (the heads); the rest follows. What a bundle cannot show by itself is
that no entry was left out of it: `vault.incident.against` asks the vault.
"""

import hashlib
import hmac
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vault._version import __version__
from vault.audit import (
    Checkpoint,
    Entry,
    Kind,
    leaf_bytes,
    leaf_hash,
    open_with_key,
    read_checkpoint,
    read_checkpoint_of_any,
    verify_consistency,
    verify_inclusion,
)
from vault.encoding import from_base64, from_json, from_timestamp, timestamp
from vault.errors import IntegrityError, InvalidInput
from vault.incident.container import MEMBERS, MOST_BYTES, unpack
from vault.incident.document import FORM
from vault.incident.picking import Concerned, runs_of
from vault.incident.reporting import report_members
from vault.model import FORMAT
from vault.trust import Label, Role, Root, Signed, VendorHead
from vault.trust.heads import Frontier, trusted_compartment_head, trusted_vendor_head
from vault.trust.root import decode_chain, open_roots

__all__ = ["Evidence", "check_bundle", "read_bundle", "verify_bundle"]

_HASH: Final = 32


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a bundle that holds shows.

    ``fingerprint`` is that of the root document that all of it rests on: ``pinned`` says that it was asked for, else
    it is to be compared. ``frozen`` and ``contained`` are when, and by which entries; ``older_size`` is the size of the
    log in the checkpoint of before the incident. ``in_doubt`` is what the coverage proof leaves open.
    """

    vault: str
    vendor: str
    vendor_id: str
    fingerprint: str
    pinned: bool
    made: str
    digest: str
    size: int
    root_hash: str
    entries: int
    sequences: tuple[tuple[int, int], ...]
    frozen: tuple[int, str]
    contained: tuple[int, str]
    older_size: int | None
    chunks: int
    compartments: int
    in_doubt: tuple[str, ...]


def verify_bundle(path: "str | os.PathLike[str]", fingerprint: str | None = None) -> Evidence:
    """Check a bundle, against a root document's fingerprint if given; raises IntegrityError and InvalidInput.

    Needs no vault. Without a fingerprint everything is checked but whose bundle it is: compare the one that comes back.
    """
    return read_bundle(path, fingerprint)[0]


def read_bundle(
    path: "str | os.PathLike[str]", fingerprint: str | None = None
) -> tuple[Evidence, list[tuple[int, Entry]]]:
    """The same, with the entries that it opens."""
    return check_bundle(_bytes(Path(path)), fingerprint)


def check_bundle(data: bytes, fingerprint: str | None = None) -> tuple[Evidence, list[tuple[int, Entry]]]:
    """The same of a bundle's bytes."""
    members = unpack(data)
    try:
        return _Bundle(members, fingerprint).check()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise IntegrityError("something in the bundle lacks a field") from error


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MOST_BYTES:
                raise InvalidInput(f"{path}: the file is larger than any bundle that can be opened here")
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"{path}: the bundle cannot be read ({error.strerror})") from error


def _json(members: Mapping[str, bytes], name: str) -> Any:
    return from_json(members[name], f"{name} in the bundle")


class _Bundle:
    """The members of one bundle, checked in the order in which they come to be believed."""

    def __init__(self, members: Mapping[str, bytes], fingerprint: str | None) -> None:
        self._members = members
        self._pinned = fingerprint is not None
        first = decode_chain(members["root.json"])[0].digest
        if fingerprint is not None and not hmac.compare_digest(first.encode(), fingerprint.strip().lower().encode()):
            raise IntegrityError("the bundle is another vault's: its root document has another fingerprint")
        self._fingerprint = first
        self._roots = open_roots(members["root.json"], first)
        self._root: Root = self._roots[-1]
        #: The times of the entries' leaves.
        self._placed: dict[int, str] = {}

    def check(self) -> tuple[Evidence, list[tuple[int, Entry]]]:
        payload, digest = self._statement()
        vendor, name = str(payload["vendor_id"]), str(payload["vendor"])
        end = read_checkpoint(self._root, self._members["checkpoint"])
        if end.size != payload["size"]:
            raise IntegrityError("the bundle's checkpoint is not the one that it was made under")
        entries = list(self._entries(end))
        runs = runs_of(number for number, _ in entries)
        if runs != payload["entries"]:
            raise IntegrityError("the bundle does not hold the entries that it lists")
        self._refuse_strangers(entries, vendor)
        coverage = _json(self._members, "coverage.json")
        incident = _Incident(entries, self._placed, vendor, self._members["coverage.json"])
        incident.agrees(coverage, self._root.vault)
        older = self._grown(end, incident.frozen[0])
        self._heads(vendor, coverage)
        self._report(entries, vendor, str(payload["release"]))
        evidence = Evidence(
            self._root.vault,
            name,
            vendor,
            self._fingerprint,
            self._pinned,
            str(payload["made"]),
            digest,
            end.size,
            end.root.hex(),
            len(entries),
            tuple((first, last) for first, last in runs),
            incident.frozen,
            incident.contained,
            older,
            sum(each["chunks"] for each in coverage["covered"]["compartments"]),
            len(coverage["covered"]["compartments"]),
            tuple(coverage["left"]["why"]),
        )
        return evidence, entries

    def _statement(self) -> tuple[Mapping[str, Any], str]:
        """What the authority signed, once every member is the one that it signed."""
        signed = Signed.decode(self._members["evidence.json"], Label.EVIDENCE)
        self._root.verify(signed, Role.AUTHORITY)
        payload = signed.document()
        if payload["type"] != "evidence" or payload["format"][0] != FORMAT[0]:
            raise IntegrityError("the bundle has a format that this release does not know")
        if payload["vault"] != self._root.vault:
            raise IntegrityError("the bundle is about another vault than its root document")
        listed = payload["members"]
        if listed.keys() != set(MEMBERS) - {"evidence.json"}:
            raise IntegrityError("the bundle's list of members is not that of a bundle")
        for name, (size, digest) in listed.items():
            data = self._members[name]
            if len(data) != size or not hmac.compare_digest(hashlib.sha256(data).hexdigest(), digest):
                raise IntegrityError(f"{name} in the bundle is not the one that was signed")
        return payload, signed.digest

    def _entries(self, end: Checkpoint) -> Iterator[tuple[int, Entry]]:
        """Each entry, once it is shown to be in the log, and to be what its own key opens."""
        table = self._members["nodes"]
        nodes = [table[at : at + _HASH] for at in range(0, len(table), _HASH)]
        before = 0
        for line in self._members["entries.jsonl"].splitlines():
            document = from_json(line, "an entry in the bundle")
            sequence, time = int(document["sequence"]), str(document["time"])
            if sequence <= before:
                raise IntegrityError("the entries in the bundle are not in order")
            before = sequence
            self._placed[sequence] = time
            sealed = from_base64(document["sealed"], "an entry in the bundle")
            path = [nodes[int(number)] for number in document["path"]]
            verify_inclusion(leaf_hash(leaf_bytes(sequence, time, sealed)), sequence - 1, end.size, path, end.root)
            try:
                yield sequence, open_with_key(sealed, self._root.vault, from_base64(document["key"], "a key"))
            except IntegrityError as error:
                raise IntegrityError(f"entry {sequence} does not open under the key that is in the bundle") from error

    def _refuse_strangers(self, entries: Sequence[tuple[int, Entry]], vendor: str) -> None:
        """Nothing of anybody else is in it: an entry is there because it concerns the vendor."""
        places = _json(self._members, "heads.json")["compartments"]
        concerned = Concerned(vendor, places)
        for number, entry in entries:
            concerned.look(number, entry)
        strangers = {number for number, _ in entries} - set(concerned.sequences)
        if strangers:
            raise IntegrityError(f"entry {min(strangers)} in the bundle does not concern the vendor")

    def _grown(self, end: Checkpoint, frozen: int) -> int | None:
        """The size of the log in the checkpoint of before the incident, which the later log is shown to begin with."""
        note = self._members["checkpoint-before"]
        if not note:
            return None
        # The log key of a version before may have signed it.
        old, _ = read_checkpoint_of_any(self._roots[::-1], note)
        if old.size >= frozen:
            raise IntegrityError("the bundle's earlier checkpoint is not from before the incident")
        path = [from_base64(each, "a proof in the bundle") for each in _json(self._members, "growth.json")]
        verify_consistency(old.size, end.size, old.root, end.root, path)
        return old.size

    def _heads(self, vendor: str, coverage: Mapping[str, Any]) -> None:
        """The vendor's own head says that it is stopped, and its compartments' that the keys have moved."""
        document = _json(self._members, "heads.json")
        steps = [(Signed.decode(_raw(one), Label.HEAD), _raw(body)) for one, body in document["vendor"]]
        head, _ = trusted_vendor_head(self._root, vendor, steps, Frontier())
        _refuse_live(head)
        covered = {each["compartment"]: each for each in coverage["covered"]["compartments"]}
        for place, (statement, body) in document["compartments"].items():
            signed = Signed.decode(_raw(statement), Label.HEAD)
            found, _ = trusted_compartment_head(self._root, place, signed, _raw(body), Frontier())
            if found.holder != vendor:
                raise IntegrityError("a compartment in the bundle is another vendor's")
            then = coverage["before"].get(place, {})
            for group in found.live_groups if place in covered else ():
                if found.epochs[group][0] <= then.get(group, 0):
                    raise IntegrityError("a signed head says that a key of before the incident is live")
        if not covered.keys() <= document["compartments"].keys():
            raise IntegrityError("the bundle lacks the head of a compartment that the coverage proof is about")

    def _report(self, entries: Sequence[tuple[int, Entry]], vendor: str, release: str) -> None:
        """The report is what follows from the entries; its page, too, where the release that made it is this one."""
        minor = self._minor()
        again = report_members(entries, vendor, self._placed, minor)
        for name, data in again.items():
            compared = name.endswith(".json") or (release, minor) == (__version__, FORM[1])
            if compared and not hmac.compare_digest(data, self._members[name]):
                raise IntegrityError(f"{name} in the bundle does not follow from its entries")

    def _minor(self) -> int:
        """The minor of the report's format, which an older release wrote with less in it.

        Raises IntegrityError for a later one. A report that names none follows from no entries anyway.
        """
        document = _json(self._members, "report.json")
        found = document.get("format") if isinstance(document, dict) else None
        if not isinstance(found, list) or len(found) != 2 or any(type(each) is not int for each in found):
            return FORM[1]
        if found[0] != FORM[0] or found[1] > FORM[1]:
            raise IntegrityError("the report in the bundle has a format that this release does not know")
        return int(found[1])


def _raw(text: str) -> bytes:
    return from_base64(text, "a head in the bundle")


def _refuse_live(head: VendorHead) -> None:
    if not head.frozen or head.grants or head.credentials:
        raise IntegrityError("the vendor's signed head in the bundle says that something of it is live")


def _leaves_out(entry: Entry) -> bool:
    """Whether a change of the root document froze the vendor: no entry that leaves out another one is in a bundle."""
    return entry.kind is Kind.ROOT_CHANGED and bool(entry.fields.get("left_out"))


class _Incident:
    """The incident that the entries tell of: the freeze, the steps, and the end, which names the coverage proof.

    Whoever has the log key can append false entries behind it: they take nothing of it away.
    """

    def __init__(
        self, entries: Sequence[tuple[int, Entry]], placed: Mapping[int, str], vendor: str, coverage: bytes
    ) -> None:
        self._vendor, self._placed = vendor, placed
        ends = [(number, entry) for number, entry in entries if entry.kind is Kind.CONTAINED]
        if not ends:
            raise IntegrityError("no entry in the bundle says that the vendor was contained")
        digest = hashlib.sha256(coverage).hexdigest()
        named = [each for each in ends if each[1].fields.get("coverage") == digest]
        if not named:
            raise IntegrityError("the coverage proof in the bundle is not the one that the log names")
        number, entry = named[-1]
        #: The entry of the end, and when.
        self.contained = number, self._when(number, entry)
        before = [each for each in entries if each[0] < number]
        #: The entry of the freeze, and when.
        first, freeze = _freeze(before)
        self.frozen = first, self._when(first, freeze)
        self._steps = [entry.fields for _, entry in before if entry.kind is Kind.CONTAINING]

    def _when(self, number: int, entry: Entry) -> str:
        """The later one of an entry's own time and that of its place: nothing is stopped earlier by dating it back."""
        try:
            return timestamp(max(entry.time, from_timestamp(self._placed[number])))
        except IntegrityError:
            return timestamp(entry.time)  # somebody wrote no time there

    def agrees(self, coverage: Mapping[str, Any], vault: str) -> None:
        """The coverage proof says what the steps in the log say, and nothing of before is left by it."""
        if (coverage["type"], coverage["vault"], coverage["vendor_id"]) != ("coverage", vault, self._vendor):
            raise IntegrityError("the coverage proof is about something else than the bundle")
        for step, said in (
            ("begun", {"epochs": coverage["before"]}),
            ("covered", coverage["covered"]),
            ("collected", coverage["left"]),
            ("rewrapped", coverage["kms"]),
        ):
            if not any(fields.get("step") == step and said.items() <= fields.items() for fields in self._steps):
                raise IntegrityError(f"the coverage proof does not say what the step '{step}' in the log says")
        for each in coverage["covered"]["compartments"]:
            then = coverage["before"].get(each["compartment"], {})
            if any(epoch <= then.get(group, 0) for group, epoch in each["now"].items()):
                raise IntegrityError("the coverage proof says that a key of before the incident is live")
        if any(coverage["left"][what] for what in ("objects", "manifests", "wrapped_keys")):
            raise IntegrityError("the coverage proof says that something of before the incident is left")


def _freeze(entries: Sequence[tuple[int, Entry]]) -> tuple[int, Entry]:
    """The freeze that the end was behind: the first one since the vendor was last thawed."""
    freezes = [(n, entry) for n, entry in entries if entry.kind is Kind.FROZEN or _leaves_out(entry)]
    if not freezes:
        raise IntegrityError("no entry in the bundle says that the vendor was frozen")
    thawed = max((number for number, entry in entries if entry.kind is Kind.THAWED), default=0)
    return next((each for each in freezes if each[0] > thawed), freezes[-1])
