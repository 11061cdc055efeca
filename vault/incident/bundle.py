"""Making the evidence bundle: what an outsider needs to see for itself what a vendor was served, and how it ended.

It holds the log's entries that concern one vendor (`vault.incident.picking`), each with its own key, its place in the
log under a signed checkpoint, and nothing that opens any other entry; and with them the coverage proof, signed heads,
and the report, which follows from those entries. The log has an entry of every bundle before there is one.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vault._version import __version__
from vault.audit import Kind, Leaf, Tree, verify_consistency
from vault.encoding import json_bytes, timestamp, to_base64
from vault.errors import InvalidInput
from vault.incident.container import pack
from vault.incident.picking import Concerned, runs_of
from vault.incident.reporting import report_members
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
    parts.journal.verify()
    parts.journal.settle()
    end = parts.journal.end()
    assert end is not None
    note, checkpoint = end
    opener = parts.journal.opener(secrets)
    with parts.catalog.read() as transaction:
        places = [row.id for row in transaction.compartments(holder=vendor.id)]
    concerned = Concerned(vendor.id, places)
    for sequence, entry in parts.journal.entries(secrets):
        if sequence <= checkpoint.size:
            concerned.look(sequence, entry)
    sequences = concerned.sequences
    tree = parts.journal.tree(checkpoint.size)
    nodes: dict[bytes, int] = {}
    lines, opened = [], []
    for leaf in _leaves(parts, sequences):
        path_nodes = [nodes.setdefault(each, len(nodes)) for each in tree.inclusion(leaf.sequence - 1)]
        document = {
            "sequence": leaf.sequence,
            "time": leaf.time,
            "sealed": to_base64(leaf.sealed),
            "key": to_base64(opener.entry_key(leaf.sealed)),
            "path": path_nodes,
        }
        lines.append(json_bytes(document) + b"\n")
        opened.append((leaf.sequence, opener.open(leaf.sealed)))
    members = {
        "root.json": parts.root.chain_bytes(),
        "checkpoint": note,
        "entries.jsonl": b"".join(lines),
        "nodes": b"".join(nodes),
        "heads.json": json_bytes(_heads(parts, vendor, places)),
        "coverage.json": coverage,
        **_growth(parts, case, tree),
        **report_members(opened, vendor.id),
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
        "entries": runs_of(sequences),
        "members": {name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in members.items()},
    }
    signed = authority.sign(Label.EVIDENCE, payload)
    data = pack({"evidence.json": signed.encode(), **members})
    check_target(path)
    with replacing(path, path.absolute().parent) as file:
        # Who gives keys of entries away is in the log before they are.
        parts.journal.record(
            Kind.DISCLOSED,
            vendor=vendor.name,
            vendor_id=vendor.id,
            evidence=signed.digest,
            size=checkpoint.size,
            entries=len(sequences),
        )
        file.write(data)
    parts.journal.checkpoint()
    return Bundled(path, signed.digest, len(sequences), len(data))


def _leaves(parts: OwnerParts, sequences: Sequence[int]) -> Iterator[Leaf]:
    """These entries; the log is read once where they are many."""
    wanted = set(sequences)
    if len(wanted) < 1000:
        yield from map(parts.journal.leaf, sequences)
        return
    for leaf in parts.journal.leaves():
        if leaf.sequence in wanted:
            yield leaf


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
