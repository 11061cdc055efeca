"""``dsvault dataset protect`` and ``approval``: the how-to as written, on three machines, and one sentence for mistakes."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

import vault as library
from tests.support.brokers import broker
from tests.support.program import document, dsvault
from tests.support.tables import rows
from vault import roots
from vault.owner import Vault
from vault.trust import Role, Signer
from vault.trust.approvals import add_approval
from vault.trust.proposals import Change
from vault.workings.keyfolder import read_public_file


def _done(*words: object, cwd: Path) -> str:
    done = dsvault(*words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _refused(*words: object, cwd: Path) -> str:
    done = dsvault(*words, cwd=cwd)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert "unexpected" not in done.stderr
    return done.stderr


def _lab(folder: Path) -> Vault:
    """The owner's machine: a vault with a dataset and a vendor, and nobody who approves."""
    folder.mkdir()
    opened = library.init(folder / "lab")
    opened.add_vendor("acme")
    opened.publish("evals", rows(40), key="id")
    return opened


def _member(opened: Vault, folder: Path, role: Role, name: str, signers: int = 1) -> str:
    """A machine with a key of a role, whose public half the owner puts into the root document."""
    folder.mkdir()
    key = roots.new_key(role, folder / f"{name}.json", None)
    public = read_public_file(folder / f"{name}.json.pub", role)
    more = {Role.ADMINISTRATOR: signers} if signers > 1 else {}
    opened.apply_root(opened.propose_root(Change(add=((role, public),), signers=more)))
    return key


def test_the_story_of_a_protected_dataset_on_three_machines(tmp_path: Path) -> None:
    """The owner protects and grants, the approver reads and signs without the vault, and the vendor fetches."""
    owner, carol, vendor, vault = tmp_path / "owner", tmp_path / "carol", tmp_path / "vendor", ("--vault", "lab")
    _lab(owner)
    carol.mkdir()
    vendor.mkdir()
    key = document("root", "new-key", "approver", "-o", "carol.json", cwd=carol)["key"]
    add = ("--add", f"approver={carol}/carol.json.pub")
    _done("root", "propose", "-o", "add-carol.json", *add, *vault, cwd=owner)
    _done("root", "apply", "add-carol.json", *vault, cwd=owner)
    protected = document("dataset", "protect", "evals", "--signers", 2, *vault, cwd=owner)
    assert (protected["version"], protected["protected"]) == (3, {protected["id"]: 2})
    assert document("dataset", "protect", "evals", "--signers", 2, *vault, cwd=owner)["changed"] is False
    shown = document("root", "show", *vault, cwd=owner)
    assert shown["protected"] == [{"dataset": protected["id"], "name": "evals", "signers": 2}]
    assert "signers of a grant: 2 (protected)" in _done("dataset", "show", "evals", *vault, cwd=owner)
    assert "(evals) need 2 signatures" in _done("root", "show", *vault, cwd=owner)

    words = (
        "grant",
        "acme",
        "evals",
        "--columns",
        "id,prompt",
        "--where",
        "lang = 'en'",
        "--purpose",
        "red\x1b[2Jteam",
    )
    granted = document(*words, "-o", "for-carol.json", *vault, cwd=owner)
    assert (granted["missing"], granted["file"]) == (1, "for-carol.json")
    assert "pending, 1 to sign" in _done("grants", "--vendor", "acme", *vault, cwd=owner)
    profile = vendor / "acme.json"
    with broker(owner / "lab") as url:
        _done("credential", "issue", "acme", "-o", profile, "--endpoint", url, *vault, cwd=owner)
        assert "no dataset or column" in _refused("fetch", "evals", "--profile", "acme.json", cwd=vendor)

        # Carol's machine has her key and the file.
        (owner / "for-carol.json").rename(carol / "for-carol.json")
        seen = document("approval", "show", "for-carol.json", cwd=carol)
        assert seen["grant"]["where_text"] == "\"lang\" = 'en'"
        assert [column["name"] for column in seen["grant"]["columns"]] == ["id", "prompt"]
        told = _done("approval", "show", "for-carol.json", cwd=carol)
        assert f"dataset: {protected['id']}" in told
        assert "purpose: red·[2Jteam" in told
        assert "not verified without --vault" in told
        for field in seen["grant"]:
            assert f"\n{field}: " in f"\n{told}"
        signed = _done("approval", "sign", "for-carol.json", "--key", "carol.json", cwd=carol)
        assert f"signed for-carol.json with {key}" in signed
        (carol / "for-carol.json").rename(owner / "for-carol.json")

        assert f"signatures that hold: {', '.join(sorted([key, *_authority(shown)]))}" in _done(
            "approval", "show", "for-carol.json", *vault, cwd=owner
        )
        applied = document("approval", "apply", "for-carol.json", *vault, cwd=owner)
        assert (applied["state"], applied["missing"], key in applied["signed_by"]) == ("live", 0, True)
        assert "has all signatures" in _done("approval", "apply", "for-carol.json", *vault, cwd=owner)
        fetched = document("fetch", "evals", "--profile", "acme.json", "-o", "mine.parquet", cwd=vendor)
        assert fetched["rows"] == 20
    kinds = [entry["kind"] for entry in document("audit", "show", *vault, cwd=owner)["entries"]]
    assert kinds.count("grant approved") == 1
    assert document("audit", "compare", *vault, cwd=owner)["ok"] is True


def _authority(shown: dict[str, Any]) -> list[str]:
    return [key["id"] for key in shown["keys"] if key["role"] == "authority"]


def test_a_grant_without_a_filter_shows_that_it_reads_nothing_by_it(tmp_path: Path) -> None:
    """Each field that is signed has a line, an empty list too."""
    opened = _lab(tmp_path / "owner")
    _member(opened, tmp_path / "carol", Role.APPROVER, "carol")
    opened.protect("evals", 2)
    _done("grant", "acme", "evals", "--columns", "id", "-o", "g.json", "--vault", "lab", cwd=tmp_path / "owner")
    told = _done("approval", "show", "g.json", cwd=tmp_path / "owner").splitlines()
    seen = document("approval", "show", "g.json", cwd=tmp_path / "owner")["grant"]
    assert seen["filter_columns"] == []
    assert "filter_columns: []" in told
    assert {line.partition(":")[0] for line in told[:-1]} == set(seen)


def test_live_grants_are_approved_or_ended_when_a_dataset_is_protected(tmp_path: Path) -> None:
    """The command names them and refuses; one is approved from a file written for it, the other is ended."""
    owner, carol, vault = tmp_path / "owner", tmp_path / "carol", ("--vault", "lab")
    opened = _lab(owner)
    _member(opened, carol, Role.APPROVER, "carol")
    first, second = (opened.grant("acme", "evals", [column]).id for column in ("id", "prompt"))
    told = _refused("dataset", "protect", "evals", "--signers", 2, *vault, cwd=owner)
    assert first in told
    assert second in told
    path = Path(document("approval", "request", first, *vault, cwd=owner)["file"])
    _done("approval", "sign", owner / path, "--key", "carol.json", cwd=carol)
    assert document("approval", "apply", path, *vault, cwd=owner)["state"] == "live"
    told = _done("dataset", "protect", "evals", "--signers", 2, "--end-grants", *vault, cwd=owner)
    assert f"ended grant {second}" in told
    assert first not in told
    assert {state.grant.id: state.state for state in opened.grants()} == {first: "live", second: "revoked"}
    assert "need 1 signature\n" in _done("dataset", "protect", "evals", "--signers", 1, *vault, cwd=owner)


def test_two_administrators_protect_with_a_proposal(tmp_path: Path) -> None:
    """Where one administrator may not do it alone, the proposal says what it protects, and the other signs that."""
    owner, bob, vault = tmp_path / "owner", tmp_path / "bob", ("--vault", "lab")
    opened = _lab(owner)
    _member(opened, tmp_path / "carol", Role.APPROVER, "carol")
    _member(opened, bob, Role.ADMINISTRATOR, "bob", signers=2)
    proposed = document("dataset", "protect", "evals", "--signers", 2, "-o", "protect.json", *vault, cwd=owner)
    assert (len(proposed["signed_by"]), proposed["signers_needed"]) == (1, 2)
    (entry,) = proposed["protected"]
    assert entry["signers"] == 2
    told = _done("root", "sign", owner / "protect.json", "--key", "bob.json", cwd=bob)
    assert f"protected: grants on {entry['dataset']} need 2 signatures" in told
    told = _done("root", "show", "--proposal", "protect.json", *vault, cwd=owner)
    assert f"changed: grants on {entry['dataset']} need 2 signatures" in told
    assert document("root", "apply", "protect.json", *vault, cwd=owner)["protected"] == {entry["dataset"]: 2}


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault with a protected dataset, a grant's file, and files that are something else."""
    folder = tmp_path_factory.mktemp("mistakes")
    owner = folder / "owner"
    opened = _lab(owner)
    _member(opened, folder / "carol", Role.APPROVER, "carol")
    opened.protect("evals", 2)
    approval = opened.approval(opened.grant("acme", "evals", ["id"]).id)
    (owner / "grant.json").write_bytes(approval.signed.encode())
    (folder / "carol" / "carol.json").rename(owner / "carol.json")
    roots.new_key(Role.RESPONDER, owner / "responder.json", None)
    mallory = Signer(b"\x66" * 32)
    (owner / "mallorys.json").write_bytes(add_approval(approval.signed, mallory).encode())
    (owner / "nonsense.json").write_text("[]")
    statement: dict[str, Any] = json.loads((owner / "grant.json").read_text())
    said = json.loads(base64.b64decode(statement["payload"]))
    for name, changes in (("odd", {"note": "unseen"}), ("other", {"id": "f" * 32})):
        payload = json.dumps(said | changes, sort_keys=True, separators=(",", ":")).encode()
        (owner / f"{name}.json").write_text(json.dumps(statement | {"payload": base64.b64encode(payload).decode()}))
    return owner


@pytest.mark.parametrize(
    "words",
    [
        ("dataset", "protect", "evals", "--signers", "3", "--vault", "lab"),
        ("root", "rotate", "approver", "--vault", "lab"),
        ("grant", "acme", "evals", "--columns", "id", "-o", "grant.json", "--vault", "lab"),
        ("grant", "acme", "evals", "--columns", "id", "-o", "no/grant.json", "--vault", "lab"),
        ("approval", "request", "f" * 32, "--vault", "lab"),
        ("approval", "show", "nonsense.json"),
        ("approval", "show", "odd.json"),
        ("approval", "sign", "odd.json", "--key", "carol.json"),
        ("approval", "sign", "grant.json", "--key", "responder.json"),
        ("approval", "apply", "other.json", "--vault", "lab"),
        ("approval", "apply", "grant.json", "--vault", "lab"),
        ("approval", "apply", "mallorys.json", "--vault", "lab"),
    ],
)
def test_every_mistake_is_one_sentence(mistaken: Path, words: tuple[str, ...]) -> None:
    """Exit code 1, nothing on stdout, one sentence on stderr, and no file left behind."""
    before = sorted(path.name for path in mistaken.iterdir())
    assert _refused(*words, cwd=mistaken).startswith("dsvault: ")
    assert sorted(path.name for path in mistaken.iterdir()) == before
