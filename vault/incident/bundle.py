"""Making the evidence bundle: what an outsider needs to see for itself what a vendor was served, and how it ended.

It holds the log's entries that concern one vendor (`vault.incident.picking`), each with its own key, its place in the
log under a signed checkpoint, and nothing that opens any other entry; and with them the coverage proof, signed heads,
and the report, which follows from those entries. The log has an entry of every bundle before there is one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vault._version import __version__
from vault.audit import Entry, Kind, Tree, verify_consistency
from vault.encoding import json_bytes, timestamp, to_base64
from vault.errors import InvalidInput
from vault.incident.container import pack
from vault.incident.picking import Concerned, runs_of
from vault.incident.reporting import report_members
from vault.incident.verifying import check_bundle
from vault.model import FORMAT
from vault.sinks import replacing
from vault.trust import Label
from vault.workings.checkpoints import read_ever
from vault.workings.containment import Case
from vault.workings.names import Holder
from vault.workings.parts import OwnerParts

__all__ = ["Bundled", "check_target", "make_bundle"]


@dataclass(frozen=True, slots=True)
class Bundled:
    """A bundle that was written: the SHA-256 of its signed statement, how many entries it opens, and its size."""

    path: Path
    evidence: str
    entries: int
    bytes: int


def check_target(path: Path) -> None:
    """Refuse a bundle's path that cannot be written, before anything long is done for it; raises InvalidInput."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InvalidInput(f"-o: {path}: name a file in a directory that there is")


def make_bundle(parts: OwnerParts, vendor: Holder, case: Case, coverage: bytes, path: Path) -> Bundled:
    """Write the evidence about a vendor that was contained; whole or not at all, and in the place of one of before.

    Raises KeyUnavailable where the authority's or the auditor's key is not here, InvalidInput and IntegrityError.
    """
    authority = parts.signers.authority()
    secrets = parts.signers.keys.auditor_secrets()
    parts.journal.settle()
    end = parts.journal.end()
    assert end is not None
    note, checkpoint = end
    parts.journal.verify()
    with parts.catalog.read() as transaction:
        places = [row.id for row in transaction.compartments(holder=vendor.id)]
    tree = parts.journal.tree(checkpoint.size)
    shown = _shown(parts, Concerned(vendor.id, places), tree, secrets)
    members = {
        "root.json": parts.root.chain_bytes(),
        "checkpoint": note,
        "entries.jsonl": b"".join(shown.lines),
        "nodes": b"".join(shown.nodes),
        "heads.json": json_bytes(_heads(parts, vendor, places)),
        "coverage.json": coverage,
        **_growth(parts, case, tree),
        **report_members(shown.entries, vendor.id, shown.placed),
    }
    payload = {
        "format": list(FORMAT),
        "type": "evidence",
        "release": __version__,
        "vault": parts.vault,
        "vendor": vendor.name,
        "vendor_id": vendor.id,
        "made": timestamp(parts.clock()),
        "size": checkpoint.size,
        "entries": runs_of(number for number, _ in shown.entries),
        "members": {name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in members.items()},
    }
    signed = authority.sign(Label.EVIDENCE, payload)
    data = pack({"evidence.json": signed.encode(), **members})
    check_bundle(data, parts.root.fingerprint)  # one that does not hold is never handed out
    check_target(path)
    with replacing(path, path.absolute().parent) as file:
        # Who gives keys of entries away is in the log before they are.
        parts.journal.record(
            Kind.DISCLOSED,
            vendor=vendor.name,
            vendor_id=vendor.id,
            evidence=signed.digest,
            size=checkpoint.size,
            entries=len(shown.entries),
        )
        file.write(data)
    parts.journal.checkpoint()
    return Bundled(path, signed.digest, len(shown.entries), len(data))


@dataclass(slots=True)
class _Shown:
    """The entries of a bundle, their leaves' times and lines, and the hashes that proofs are made of, by number."""

    entries: list[tuple[int, Entry]] = field(default_factory=list)
    placed: dict[int, str] = field(default_factory=dict)
    lines: list[bytes] = field(default_factory=list)
    nodes: dict[bytes, int] = field(default_factory=dict)


def _shown(parts: OwnerParts, concerned: Concerned, tree: Tree, secrets: Sequence[bytes]) -> _Shown:
    """What the log has in that tree that concerns the vendor; the log is read twice, to know and to take."""
    for sequence, entry in parts.journal.entries(secrets):
        if sequence <= tree.size:
            concerned.look(sequence, entry)
    wanted, opener, shown = set(concerned.sequences), parts.journal.opener(secrets), _Shown()
    for leaf in parts.journal.leaves():
        if leaf.sequence not in wanted:
            continue
        nodes = [shown.nodes.setdefault(each, len(shown.nodes)) for each in tree.inclusion(leaf.sequence - 1)]
        document = {
            "sequence": leaf.sequence,
            "time": leaf.time,
            "sealed": to_base64(leaf.sealed),
            "key": to_base64(opener.entry_key(leaf.sealed)),
            "path": nodes,
        }
        shown.lines.append(json_bytes(document) + b"\n")
        shown.placed[leaf.sequence] = leaf.time
        shown.entries.append((leaf.sequence, opener.open(leaf.sealed)))
    return shown


def _heads(parts: OwnerParts, vendor: Holder, places: Sequence[str]) -> dict[str, Any]:
    """The signed heads of the vendor and of its compartments, as the catalog has them."""
    with parts.catalog.read() as transaction:
        steps = transaction.head_steps(vendor.id)
        newest = [(place, transaction.newest_head(place)) for place in places]
    return {
        "vendor": [[to_base64(row.statement), to_base64(row.body)] for row in steps],
        "compartments": {
            place: [to_base64(row.statement), to_base64(row.body)] for place, row in newest if row is not None
        },
    }


def _growth(parts: OwnerParts, case: Case, tree: Tree) -> dict[str, bytes]:
    """The checkpoint of before the incident, and the proof that the log only grew since; empty where none was kept."""
    kept = case.before.checkpoint
    if kept is None:
        return {"checkpoint-before": b"", "growth.json": b"[]"}
    old, _ = read_ever(parts.root, kept.encode())
    path = tree.consistency(old.size)
    verify_consistency(old.size, tree.size, old.root, tree.root, path)
    return {"checkpoint-before": kept.encode(), "growth.json": json_bytes([to_base64(each) for each in path])}
