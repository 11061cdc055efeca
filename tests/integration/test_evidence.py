"""The evidence bundle: whoever holds it checks it without the vault, and no altered one passes."""

import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import vault
from tests.conftest import Lab
from tests.support.reading import read
from tests.support.tables import rows
from vault.audit import Kind
from vault.encoding import from_base64, json_bytes, to_base64
from vault.errors import IntegrityError, InvalidInput, KeyUnavailable
from vault.incident import Evidence, verify_bundle
from vault.incident.container import MEMBERS, pack, unpack
from vault.trust import Label, Signer
from vault_cli.main import app


@dataclass(frozen=True)
class Made:
    """A vault whose vendor acme was contained, and the bundle about it."""

    lab: Lab
    path: Path

    @property
    def members(self) -> dict[str, bytes]:
        """What is in the bundle."""
        return unpack(self.path.read_bytes())

    @property
    def authority(self) -> Signer:
        """The authority's key: whoever alters a bundle here has even that."""
        return self.lab.vault.parts.signers.authority()

    def signed_anew(self, members: dict[str, bytes], **changes: object) -> bytes:
        """A bundle of other members, as somebody with the authority's key could make it."""
        import hashlib

        payload = json.loads(from_base64(json.loads(members["evidence.json"])["payload"], "it"))
        payload["members"] = {
            name: [len(data), hashlib.sha256(data).hexdigest()]
            for name, data in members.items()
            if name != "evidence.json"
        }
        signed = self.authority.sign(Label.EVIDENCE, {**payload, **changes})
        return pack({**members, "evidence.json": signed.encode()})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """acme read and was contained; globex has a grant and read, too."""
    folder = tmp_path_factory.mktemp("evidence")
    opened = vault.init(folder / "lab")
    lab = Lab(folder / "lab", opened)
    for vendor in ("acme", "globex"):
        opened.add_vendor(vendor)
    opened.publish("evals", rows(100), key="id", shard_rows=30)
    opened.publish("others", rows(10), key="id")
    opened.grant("acme", "evals", ["id", "prompt", "lang"], where="lang = 'en'")
    opened.grant("globex", "evals", ["id", "answer"])
    opened.grant("globex", "others", ["id"])
    opened.publish("evals", rows(10, start=100), key="id", append=True)
    opened.erase("evals", keys=[5])
    parts = lab.broker_parts()
    read(parts, lab.caller(parts, "acme"))
    read(parts, lab.caller(parts, "globex"))
    parts.journal.settle()
    opened.contain("acme", bundle=folder / "acme.zip")
    return Made(lab, folder / "acme.zip")


def _refused(made: Made, data: bytes, tmp_path: Path, root: str | None = None) -> str:
    """The sentence with which a bundle of these bytes is refused, at the command line."""
    path = tmp_path / "bad.zip"
    path.write_bytes(data)
    done = CliRunner().invoke(app, ["incident", "verify", str(path), *(["--root", root] if root else [])])
    assert done.stdout == ""
    assert isinstance(done.exception, IntegrityError | InvalidInput), (done.exception, done.output)
    return str(done.exception)


def test_a_bundle_holds_without_the_vault(made: Made, tmp_path: Path) -> None:
    """Copied elsewhere and with the vault's directory unknown it is checked; pinned or with a fingerprint to compare."""
    path = tmp_path / "copied.zip"
    shutil.copy(made.path, path)
    found = verify_bundle(path)
    fingerprint = made.lab.vault.parts.root.fingerprint
    assert (found.vendor, found.fingerprint, found.pinned) == ("acme", fingerprint, False)
    assert verify_bundle(path, fingerprint).pinned
    assert found.entries > 10
    assert found.frozen[0] < found.contained[0] <= found.size
    assert found.older_size is not None
    assert found.older_size < found.frozen[0]
    assert path.stat().st_size < 1 << 20


def test_the_command_says_what_is_shown(made: Made) -> None:
    """The fingerprint is to be compared unless it was given; with --json it is one document."""
    plain = CliRunner().invoke(app, ["incident", "verify", str(made.path)])
    assert plain.exit_code == 0
    assert "COMPARE it" in plain.stdout
    fingerprint = made.lab.vault.parts.root.fingerprint
    pinned = CliRunner().invoke(app, ["incident", "verify", str(made.path), "--root", fingerprint])
    assert "as asked for" in pinned.stdout
    words = ["incident", "verify", str(made.path), "--vault", str(made.lab.folder), "--json"]
    document = json.loads(CliRunner().invoke(app, words).stdout)
    assert (document["ok"], document["complete"], document["vendor"]) == (True, True, "acme")


def test_it_holds_nothing_of_anybody_else(made: Made) -> None:
    """No entry of another vendor, no other dataset, no name of either, and no key that opens another entry."""
    members = made.members
    lines = [json.loads(line) for line in members["entries.jsonl"].splitlines()]
    shown = {line["sequence"] for line in lines}
    entries = dict(made.lab.vault.audit_entries())
    ids = {state.name: state.id for state in made.lab.vault.vendors()}
    assert {entries[number].fields.get("vendor_id", ids["acme"]) for number in shown} == {ids["acme"]}
    assert {entries[n].fields["dataset"] for n in shown if entries[n].kind is Kind.PUBLISHED} <= {"evals"}
    from vault.audit import open_with_key

    keys = [from_base64(line["key"], "a key") for line in lines]
    parts = made.lab.vault.parts
    for leaf in parts.journal.leaves():
        opened = 0
        for key in keys:
            try:
                open_with_key(leaf.sealed, parts.vault, key)
                opened += 1
            except IntegrityError:
                continue
        assert opened == (leaf.sequence in shown)
    text = b"".join(data for name, data in members.items() if name != "entries.jsonl")
    for entry in (entries[number] for number in shown):
        text += entry.encode()
    for stranger in (b"globex", b"others", ids["globex"].encode(), b"prompt number", b"the answer to"):
        assert stranger not in text


def test_the_commands_from_the_dry_run_to_the_evidence(
    granted: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said to a person or as one document; without -o the evidence is a file here that is named after vendor and time."""
    monkeypatch.chdir(tmp_path)
    at = ["--vault", str(granted.folder)]
    planned = CliRunner().invoke(app, ["incident", "contain", "acme", "--dry-run", *at])
    assert planned.exit_code == 0, planned.output
    assert "an estimate" in planned.stdout
    assert "nothing was changed" in planned.stdout
    assert list(tmp_path.glob("*.zip")) == []
    document = json.loads(CliRunner().invoke(app, ["incident", "contain", "acme", "--dry-run", "--json", *at]).stdout)
    assert (document["frozen"], document["chunks"] > 0) == (False, True)
    done = CliRunner().invoke(app, ["incident", "contain", "acme", "--json", *at])
    assert json.loads(done.stdout)["chunks"] == document["chunks"]
    assert done.stderr == ""
    (path,) = tmp_path.glob("acme-*.evidence.zip")
    assert CliRunner().invoke(app, ["incident", "verify", str(path), *at]).exit_code == 0
    again = CliRunner().invoke(app, ["incident", "contain", "acme", "-o", str(path), *at])
    assert "(it had been before)" in again.stdout
    assert again.stderr.count("dsvault: ") == 8
    assert verify_bundle(path).vendor == "acme"


def test_a_second_run_gives_a_bundle_again(made: Made, tmp_path: Path) -> None:
    """It is in the log, as the first was, and holds as well; the older one holds on."""
    done = vault.open(made.lab.folder).contain("acme", bundle=tmp_path / "again.zip")
    assert not done.changed
    assert done.bundle is not None
    again, first = verify_bundle(tmp_path / "again.zip"), verify_bundle(made.path)
    assert (again.digest, again.contained) == (done.bundle.evidence, first.contained)
    assert again.entries > first.entries
    for path in (made.path, tmp_path / "again.zip"):
        assert made.lab.vault.verify_bundle(path).vendor == "acme"


def test_the_same_members_make_the_same_bytes(made: Made) -> None:
    """The container has one form: packed again it is the same file."""
    assert pack(made.members) == made.path.read_bytes()


# Bundles that somebody made or changed


def test_another_vaults_root_is_refused(made: Made, tmp_path: Path) -> None:
    """A bundle is checked under the fingerprint that is asked for, and under no other."""
    sentence = _refused(made, made.path.read_bytes(), tmp_path, root="0" * 64)
    assert "another vault's" in sentence


def test_a_swapped_root_document_is_refused(made: Made, tmp_path: Path) -> None:
    """The root document of another vault in its place: the authority that it names did not sign this bundle."""
    other = vault.init(tmp_path / "other")
    data = pack({**made.members, "root.json": other.parts.root.chain_bytes()})
    assert "is not signed by the authority key" in _refused(made, data, tmp_path)


@pytest.mark.parametrize("name", [name for name in MEMBERS if name != "evidence.json"])
def test_an_altered_member_is_refused(made: Made, tmp_path: Path, name: str) -> None:
    """One bit of any member is enough."""
    members = made.members
    changed = bytearray(members[name])
    changed[len(changed) // 2] ^= 1
    assert _refused(made, pack({**members, name: bytes(changed)}), tmp_path)


def test_an_altered_statement_is_refused(made: Made, tmp_path: Path) -> None:
    """The list of members, changed to fit other members, is not what the authority signed."""
    members = made.members
    stolen = made.signed_anew({**members, "coverage.json": b"{}"})
    statement = json.loads(unpack(stolen)["evidence.json"])
    statement["signatures"] = json.loads(members["evidence.json"])["signatures"]
    data = pack({**members, "coverage.json": b"{}", "evidence.json": json_bytes(statement)})
    assert "is not signed by the authority key" in _refused(made, data, tmp_path)


def test_another_roles_key_does_not_sign_a_bundle(made: Made, tmp_path: Path) -> None:
    """A publisher's or responder's signature makes no evidence."""
    payload = json.loads(from_base64(json.loads(made.members["evidence.json"])["payload"], "it"))
    for signer in (made.lab.vault.parts.signers.responder(), made.lab.vault.parts.signers.publisher()):
        data = pack({**made.members, "evidence.json": signer.sign(Label.EVIDENCE, payload).encode()})
        assert "is not signed by the authority key" in _refused(made, data, tmp_path)


def test_a_signature_made_for_something_else_is_refused(made: Made, tmp_path: Path) -> None:
    """What the authority signed under another label is no evidence, whatever it says."""
    statement = json.loads(made.members["evidence.json"])
    payload = json.loads(from_base64(statement["payload"], "it"))
    grant = json.loads(made.authority.sign(Label.GRANT, payload).encode())
    data = pack({**made.members, "evidence.json": json_bytes({**grant, "label": "evidence"})})
    assert "is not signed by the authority key" in _refused(made, data, tmp_path)


@pytest.mark.parametrize("left", [0, 1, 100, 0.5, -22, -1])
def test_a_truncated_bundle_is_refused(made: Made, tmp_path: Path, left: float) -> None:
    """Cut off anywhere it is no bundle."""
    data = made.path.read_bytes()
    cut = data[: int(len(data) * left)] if isinstance(left, float) else data[:left]
    assert "not an evidence bundle, or it was cut off" in _refused(made, cut, tmp_path)


def test_swapped_members_are_refused(made: Made, tmp_path: Path) -> None:
    """Two members in each other's places are neither."""
    members = made.members
    data = pack({**members, "heads.json": members["coverage.json"], "coverage.json": members["heads.json"]})
    assert "is not the one that was signed" in _refused(made, data, tmp_path)


def _zip(members: dict[str, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip as any program makes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as bundle:
        for name, data in members.items() if isinstance(members, dict) else members:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr, info.compress_type = 3, 0o100600 << 16, method
            bundle.writestr(info, data)
    return file.getvalue()


def test_an_extra_member_is_refused(made: Made, tmp_path: Path) -> None:
    """Nothing comes along with a bundle."""
    data = _zip({**made.members, "more.txt": b"more"})
    assert "a member that no bundle has: 'more.txt'" in _refused(made, data, tmp_path)


def test_a_missing_member_is_refused(made: Made, tmp_path: Path) -> None:
    """Without its report a bundle is none."""
    data = _zip({name: data for name, data in made.members.items() if name != "report.json"})
    assert "lacks the member report.json" in _refused(made, data, tmp_path)


@pytest.mark.parametrize(
    "name", ["../report.json", "/etc/passwd", "a/../../b", "C:\\x", "report.json/", "report.json\\x"]
)
def test_a_name_that_is_a_path_is_refused(made: Made, tmp_path: Path, name: str) -> None:
    """No name is ever used as one; nothing is written anywhere."""
    before = sorted(tmp_path.rglob("*"))
    data = _zip([*made.members.items(), (name, b"x")])
    assert "a member that no bundle has" in _refused(made, data, tmp_path)
    assert sorted(tmp_path.rglob("*")) == [*before, tmp_path / "bad.zip"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_is_refused(made: Made, tmp_path: Path) -> None:
    """One reader would see the one, and another the other."""
    data = _zip([*made.members.items(), ("report.json", b"{}")])
    assert "has the member report.json twice" in _refused(made, data, tmp_path)


def test_a_bomb_is_refused_unopened(made: Made, tmp_path: Path) -> None:
    """A member that would be a gigabyte once it is decompressed is not decompressed."""
    data = _zip({**made.members, "report.html": bytes(1 << 28)}, zipfile.ZIP_DEFLATED)
    assert len(data) < 1 << 21
    assert "is compressed, which no bundle's is" in _refused(made, data, tmp_path)


def test_members_that_lie_on_each_other_are_refused(made: Made, tmp_path: Path) -> None:
    """A directory whose entries all point at the same large bytes claims more than there is."""
    big = bytes(1 << 20)
    plain = _zip({**made.members, "report.html": big})
    end = plain.rindex(b"PK\x05\x06")
    start = struct.unpack("<I", plain[end + 16 : end + 20])[0]
    directory, at = bytearray(plain[start:end]), 0
    offsets, sizes = [], []
    while at < len(directory):
        name, extra, comment = struct.unpack("<HHH", directory[at + 28 : at + 34])
        offsets.append(at)
        sizes.append(directory[at + 46 : at + 46 + name])
        at += 46 + name + extra + comment
    html = offsets[[bytes(each) for each in sizes].index(b"report.html")]
    for at in offsets:
        directory[at + 16 : at + 28] = directory[html + 16 : html + 28]
        directory[at + 42 : at + 46] = directory[html + 42 : html + 46]
    data = plain[:start] + bytes(directory) + plain[end:]
    assert "claims to hold more than it has bytes" in _refused(made, data, tmp_path)


@pytest.mark.parametrize("where", ["before", "after", "comment"])
def test_bytes_beside_the_members_are_refused(made: Made, tmp_path: Path, where: str) -> None:
    """What no reader of the members sees is not there at all."""
    data = made.path.read_bytes()
    if where == "before":
        data = b"#!/bin/sh\n" + data
    elif where == "after":
        data += b"\0"
    else:
        data = data[:-2] + struct.pack("<H", 4) + b"note"
    assert _refused(made, data, tmp_path)


def test_a_file_that_is_none_is_refused(made: Made, tmp_path: Path) -> None:
    """A path that is no file, and one that is no bundle, get a sentence."""
    for path in (tmp_path / "none.zip", tmp_path):
        with pytest.raises(InvalidInput, match="cannot be read"):
            verify_bundle(path)
    assert "not an evidence bundle" in _refused(made, b"x" * 1000, tmp_path)


# Bundles of somebody who has the authority's key


def _without(members: dict[str, bytes], made: Made, kind: Kind) -> tuple[dict[str, bytes], int]:
    """The members without the last entry of a kind, and its number."""
    entries = dict(made.lab.vault.audit_entries())
    lines = members["entries.jsonl"].splitlines(keepends=True)
    (*_, gone) = (line for line in lines if entries[json.loads(line)["sequence"]].kind is kind)
    return {**members, "entries.jsonl": b"".join(line for line in lines if line != gone)}, json.loads(gone)["sequence"]


def test_an_entry_that_was_left_out_is_missed_by_the_list(made: Made, tmp_path: Path) -> None:
    """The statement lists the numbers of the entries, and all of them have to be there."""
    members, _ = _without(made.members, made, Kind.READ_ENDED)
    assert "does not hold the entries that it lists" in _refused(made, made.signed_anew(members), tmp_path)


def test_an_entry_that_was_left_out_of_the_list_too_is_missed_by_the_vault(made: Made, tmp_path: Path) -> None:
    """With list, report and signature made anew the bundle cannot show it; the vault's log does."""
    from vault.incident.picking import runs_of
    from vault.incident.reporting import report_members

    members, number = _without(made.members, made, Kind.READ_ENDED)
    entries = dict(made.lab.vault.audit_entries())
    placed = {(each := json.loads(line))["sequence"]: each["time"] for line in members["entries.jsonl"].splitlines()}
    left = list(placed)
    vendor = next(state.id for state in made.lab.vault.vendors() if state.name == "acme")
    members |= report_members([(each, entries[each]) for each in left], vendor, placed)
    path = tmp_path / "less.zip"
    path.write_bytes(made.signed_anew(members, entries=runs_of(left)))
    assert verify_bundle(path).entries == len(left)
    with pytest.raises(
        IntegrityError, match=f"lacks 1 of the log's entries that concern 'acme', the first of them {number}"
    ):
        made.lab.vault.verify_bundle(path)


def _altered(made: Made, change: Callable[[list[dict[str, Any]]], object]) -> bytes:
    lines = [json.loads(line) for line in made.members["entries.jsonl"].splitlines()]
    change(lines)
    return made.signed_anew({**made.members, "entries.jsonl": b"".join(json_bytes(line) + b"\n" for line in lines)})


def test_an_entry_that_is_not_in_the_log_is_refused(made: Made, tmp_path: Path) -> None:
    """Another sealed entry in the place of one contradicts the signed checkpoint."""

    def change(lines: list[dict[str, Any]]) -> None:
        lines[3]["sealed"], lines[3]["key"] = lines[4]["sealed"], lines[4]["key"]

    assert "is not in the log of" in _refused(made, _altered(made, change), tmp_path)


def test_an_entry_under_another_number_is_refused(made: Made, tmp_path: Path) -> None:
    """An entry's number and time are in its leaf."""

    def change(lines: list[dict[str, Any]]) -> None:
        lines[3]["time"] = lines[4]["time"]

    assert "is not in the log of" in _refused(made, _altered(made, change), tmp_path)


def test_a_key_that_is_not_the_entrys_is_refused(made: Made, tmp_path: Path) -> None:
    """What an entry says is what its own key opens; no other key opens it to other words."""

    def change(lines: list[dict[str, Any]]) -> None:
        lines[3]["key"] = lines[4]["key"]

    assert "does not open under the key" in _refused(made, _altered(made, change), tmp_path)


def test_entries_out_of_order_are_refused(made: Made, tmp_path: Path) -> None:
    """Twice the same entry would count twice in the report."""
    assert "not in order" in _refused(made, _altered(made, lambda lines: lines.insert(1, lines[0])), tmp_path)


def test_an_entry_of_another_vendor_is_refused(made: Made, tmp_path: Path) -> None:
    """A bundle that gives away more than it may is refused, although every proof of it holds."""
    parts = made.lab.vault.parts
    opener = parts.journal.opener(parts.signers.keys.auditor_secrets())
    tree, size = parts.journal.tree(), verify_bundle(made.path).size
    number = next(n for n, entry in made.lab.vault.audit_entries() if entry.fields.get("vendor") == "globex")
    leaf = parts.journal.leaf(number)
    nodes = made.members["nodes"]
    path = tree.inclusion(number - 1, size)
    first = len(nodes) // 32
    more = {
        "sequence": number,
        "time": leaf.time,
        "sealed": to_base64(leaf.sealed),
        "key": to_base64(opener.entry_key(leaf.sealed)),
        "path": list(range(first, first + len(path))),
    }
    lines = [json.loads(line) for line in made.members["entries.jsonl"].splitlines()]
    lines = sorted([*lines, more], key=lambda line: line["sequence"])
    from vault.incident.picking import runs_of

    members = {
        **made.members,
        "entries.jsonl": b"".join(json_bytes(line) + b"\n" for line in lines),
        "nodes": nodes + b"".join(path),
    }
    data = made.signed_anew(members, entries=runs_of(line["sequence"] for line in lines))
    assert f"entry {number} in the bundle does not concern the vendor" in _refused(made, data, tmp_path)


def test_a_report_that_does_not_follow_is_refused(made: Made, tmp_path: Path) -> None:
    """Its figures are worked out anew from the entries; a page that says something else is refused, too."""
    for name, data in (("report.json", b"{}"), ("report.html", b"<p>nothing was read</p>")):
        changed = made.signed_anew({**made.members, name: data})
        assert f"{name} in the bundle does not follow from its entries" in _refused(made, changed, tmp_path)


def test_a_coverage_proof_that_the_log_does_not_name_is_refused(made: Made, tmp_path: Path) -> None:
    """Its digest is in the entry that says that the vendor was contained."""
    coverage = json.loads(made.members["coverage.json"])
    coverage["left"]["objects"] = 1
    data = made.signed_anew({**made.members, "coverage.json": json_bytes(coverage)})
    assert "is not the one that the log names" in _refused(made, data, tmp_path)


def test_heads_that_say_that_something_is_live_are_refused(made: Made, tmp_path: Path) -> None:
    """A bundle about a vendor that is thawed, or has a grant, does not show that it was contained."""
    heads = json.loads(made.members["heads.json"])
    vendor = next(state.id for state in made.lab.vault.vendors() if state.name == "globex")
    with made.lab.vault.parts.catalog.read() as transaction:
        steps = transaction.head_steps(vendor)
    heads["vendor"] = [[to_base64(row.statement), to_base64(row.body)] for row in steps]
    assert _refused(made, made.signed_anew({**made.members, "heads.json": json_bytes(heads)}), tmp_path)
    own = next(state.id for state in made.lab.vault.vendors() if state.name == "acme")
    with made.lab.vault.parts.catalog.read() as transaction:
        live = [row for row in transaction.heads_from(own, 1) if row.by_authority][-1]
    heads["vendor"] = [[to_base64(live.statement), to_base64(live.body)]]
    data = made.signed_anew({**made.members, "heads.json": json_bytes(heads)})
    assert "something of it is live" in _refused(made, data, tmp_path)


def test_a_checkpoint_of_after_the_incident_is_none_of_before(made: Made, tmp_path: Path) -> None:
    """The log is shown to have grown from what it was before the freeze, not from something later."""
    data = made.signed_anew({**made.members, "checkpoint-before": made.members["checkpoint"], "growth.json": b"[]"})
    assert "not from before the incident" in _refused(made, data, tmp_path)


def test_a_fork_is_refused(made: Made, tmp_path: Path) -> None:
    """A proof that does not lead from the earlier checkpoint to the later one shows that the log was changed."""
    data = made.signed_anew({**made.members, "growth.json": b"[]"})
    assert "was forked" in _refused(made, data, tmp_path)


def test_the_log_knows_of_every_bundle(made: Made, tmp_path: Path) -> None:
    """One that nobody noted in the log before it was there is told by the vault."""
    path = tmp_path / "untold.zip"
    path.write_bytes(made.signed_anew(made.members, made="2026-01-01T00:00:00.000000Z"))
    verify_bundle(path)
    with pytest.raises(IntegrityError, match="no entry of the making of this bundle"):
        made.lab.vault.verify_bundle(path)


def test_false_entries_take_nothing_away(granted: Lab, tmp_path: Path) -> None:
    """Who has taken a broker over can append to the log that the vendor was thawed, and contained otherwise."""
    opened = granted.vault
    opened.contain("acme")
    vendor = next(state.id for state in opened.vendors() if state.name == "acme")
    broker = granted.broker_parts()
    broker.journal.record(Kind.THAWED, vendor="acme", vendor_id=vendor)
    broker.journal.record(Kind.CONTAINED, vendor="acme", vendor_id=vendor, coverage="0" * 64)
    broker.journal.record(Kind.CONTAINING, vendor="acme", vendor_id=vendor, step="covered", compartments=[])
    broker.journal.record(Kind.KEYS_OPENED, keys=7)
    opened.contain("acme", bundle=tmp_path / "acme.zip")
    assert opened.verify_bundle(tmp_path / "acme.zip").vendor == "acme"


def test_one_that_does_not_hold_is_not_handed_out(
    granted: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made is checked as others will, before it is in the log or on disk."""
    made = {"report.json": b"{}", "report.html": b""}
    monkeypatch.setattr("vault.incident.bundle.report_members", lambda *_words: made)
    with pytest.raises(IntegrityError, match="does not follow from its entries"):
        granted.vault.contain("acme", bundle=tmp_path / "acme.zip")
    assert not (tmp_path / "acme.zip").exists()
    assert Kind.DISCLOSED not in {entry.kind for _, entry in granted.vault.audit_entries()}


def test_without_the_authority_nothing_is_given_away(granted: Lab, tmp_path: Path) -> None:
    """All but the evidence is done, and what is left is said; with the key back the same call makes it."""
    key = granted.folder / "owner" / "keys" / "authority.json"
    away = key.read_bytes()
    key.unlink()
    with pytest.raises(KeyUnavailable, match="authority key is not here") as caught:
        vault.open(granted.folder).contain("acme", bundle=tmp_path / "acme.zip")
    assert "left: the evidence bundle" in caught.value.__notes__[0]
    assert not list(tmp_path.glob("*.zip"))
    key.write_bytes(away)
    key.chmod(0o600)
    opened = vault.open(granted.folder)
    opened.contain("acme", bundle=tmp_path / "acme.zip")
    assert isinstance(opened.verify_bundle(tmp_path / "acme.zip"), Evidence)
    assert (tmp_path / "acme.zip").stat().st_mode & 0o077 == 0


def test_a_place_for_the_bundle_that_there_is_not(granted: Lab, tmp_path: Path) -> None:
    """It is said before anything long is done, and behind the freeze."""
    with pytest.raises(InvalidInput, match="-o: .* name a file in a directory that there is") as caught:
        granted.vault.contain("acme", bundle=tmp_path / "no" / "such" / "dir.zip")
    assert "done: freeze; left: end its grants" in caught.value.__notes__[0]
