"""``dsvault kms``, ``rotate rewrap`` and ``vendor offboard`` as a person at a terminal has them."""

import json
from pathlib import Path
from typing import Any

import pytest

import vault
from tests.support.program import dsvault
from tests.support.tables import rows
from vault.errors import InvalidInput


def _run(folder: Path, *arguments: str, code: int = 0, **environment: str) -> str:
    done = dsvault(*arguments, "--vault", folder, environment=environment)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def _json(folder: Path, *arguments: str, **environment: str) -> Any:
    return json.loads(_run(folder, *arguments, "--json", **environment))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A vault with acme, who may read two columns."""
    opened = vault.init(tmp_path / "lab")
    opened.add_vendor("acme")
    opened.publish("evals", rows(10), key="id")
    opened.grant("acme", "evals", ["id", "prompt"])
    return tmp_path / "lab"


def test_keys_are_listed_disabled_and_enabled(folder: Path) -> None:
    """``kms list`` shows the state that ``kms disable`` and ``kms enable`` change, and each is in the log."""

    def states() -> dict[str, str]:
        return {each["holder"]: each["state"] for each in _json(folder, "kms", "list")["keys"]}

    assert states() == {"owner": "enabled", "acme": "enabled"}
    assert "kms enable acme" in _run(folder, "kms", "disable", "acme")
    assert states() == {"owner": "enabled", "acme": "disabled"}
    assert _json(folder, "kms", "enable", "acme")["state"] == "enabled"
    assert states()["acme"] == "enabled"
    kinds = [entry["kind"] for entry in _json(folder, "audit", "show")["entries"]]
    assert [kind for kind in kinds if kind.startswith("KMS key ")] == ["KMS key disabled", "KMS key enabled"]
    assert "no vendor named" in _run(folder, "kms", "disable", "nobody", code=1)


def test_one_disabled_key_is_named_and_stops_nobody_else(folder: Path) -> None:
    """Upkeep for the whole vault prints what was done, says whose key is disabled and what helps, and ends with 1."""
    _run(folder, "vendor", "freeze", "acme")
    _run(folder, "kms", "disable", "acme")
    remedy = "a KMS key of 'acme' is disabled; 'dsvault kms enable acme'"
    for words in (("rotate", "rekey"), ("rotate", "rewrap"), ("gc", "--grace", "0s"), ("check",)):
        done = dsvault(*words, "--vault", folder)
        assert done.returncode == 1
        assert remedy in done.stdout + done.stderr
        assert "owner" in done.stdout or words[0] != "rotate"
        assert "Traceback" not in done.stderr
    _run(folder, "kms", "enable", "acme")
    _run(folder, "gc", "--grace", "0s")
    _run(folder, "check")


def test_policies_go_to_files_that_the_services_tools_take(
    moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With -o there is one file for each policy, named by the KMS key where the policy is the key's own."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    lab = tmp_path / "aws"
    vault.init(lab, kms=f"awskms://{moto.removeprefix('http://')}?region=eu-central-1").add_vendor("acme")
    (key,) = [each["key"] for each in _json(lab, "kms", "list")["keys"] if each["holder"] == "acme"]
    roles = ("--broker", "arn:aws:iam::123456789012:role/b", "--owner", "arn:aws:iam::123456789012:role/o")
    policies = ("kms", "policy", "--vendor", "acme", "-o", str(tmp_path / "out"))
    told = _run(lab, *policies, "--format", "aws-key", *roles)
    path = tmp_path / "out" / f"{key.rpartition('/')[2]}.json"
    assert told == f"wrote {path}\n"
    assert json.loads(path.read_text())["Statement"][0]["Sid"] == "Administration"
    assert _json(lab, *policies)["files"] == [str(tmp_path / "out" / "policy-1.json")]
    assert json.loads((tmp_path / "out" / "policy-1.json").read_text())["Statement"][0]["Action"] == "kms:Decrypt"


def test_rewrap_says_what_moved(folder: Path) -> None:
    """``rotate rewrap`` names the old and the new KMS key of each holder, and --prepare moves nothing."""
    (ready,) = _json(folder, "rotate", "rewrap", "--vendor", "acme", "--prepare")["rewrapped"]
    assert (ready["keys"], ready["done"]) == (0, False)
    (done,) = _json(folder, "rotate", "rewrap", "--vendor", "acme", "--disable-old")["rewrapped"]
    assert (done["new"], done["done"]) == (ready["new"], True)
    assert done["keys"] == 4
    shown = _run(folder, "rotate", "rewrap")
    assert "owner" in shown
    assert "acme" in shown


def test_offboarding_asks_first_and_says_what_is_gone(folder: Path) -> None:
    """Without --yes it asks; then it says what is gone at once, what later, and what may still be had."""
    _run(folder, "vendor", "offboard", "acme", code=1)
    assert "active" in _run(folder, "vendor", "list")
    told = _run(folder, "vendor", "offboard", "acme", "--yes")
    for said in ("gone at once", "the KMS key", "backups", "dsvault gc", "untouched"):
        assert said in told
    assert "offboarded" in _run(folder, "vendor", "list")
    assert "already" in _run(folder, "vendor", "offboard", "acme", "--yes")
    assert _json(folder, "vendor", "offboard", "acme", "--yes")["changed"] is False
    assert _json(folder, "check")["ok"] is True


def test_a_kms_that_is_away_is_one_line(folder: Path) -> None:
    """A server that does not answer gives one sentence on stderr, without the tries that came before it."""
    for part in ("owner", "broker"):
        path = folder / part / "config.toml"
        path.write_text(path.read_text().replace('"local:"', '"transit://127.0.0.1:9/transit"'))
    said = _run(folder, "dataset", "list", code=1, BAO_TOKEN="t")
    assert said.count("\n") == 1
    assert said.startswith("dsvault: ")


def test_a_local_keystore_has_no_policy(folder: Path) -> None:
    """A keystore in files has no policies; the sentence says so, and another service's language is refused too."""
    assert "no policies" in _run(folder, "kms", "policy", "--vendor", "acme", code=1)
    assert "transit" in _run(folder, "kms", "policy", "--vendor", "acme", "--format", "openbao", code=1)
    arns = ("--broker", "b", "--owner", "o")
    assert "AWS" in _run(folder, "kms", "policy", "--vendor", "acme", "--format", "aws-key", *arns, code=1)
    assert "--broker" in _run(folder, "kms", "policy", "--vendor", "acme", "--format", "aws-key", code=1)


def test_the_passphrase_of_every_key_file_changes(folder: Path) -> None:
    """From none to one, to another, and back to none: the vault opens with the right one only."""
    done = _json(folder, "kms", "passphrase", DSVAULT_NEW_PASSPHRASE="first")
    # The KMS keys of the owner and acme, five keys of the owner's roles, and the log key.
    assert done == {"files": 8, "sealed": True}
    assert "passphrase" in _run(folder, "kms", "list", code=1)
    assert "passphrase" in _run(folder, "kms", "list", code=1, DSVAULT_PASSPHRASE="wrong")
    _run(folder, "kms", "list", DSVAULT_PASSPHRASE="first")
    wrong = {"DSVAULT_PASSPHRASE": "wrong", "DSVAULT_NEW_PASSPHRASE": "second"}
    assert "passphrase is wrong" in _run(folder, "kms", "passphrase", code=1, **wrong)
    _run(folder, "kms", "passphrase", DSVAULT_PASSPHRASE="first", DSVAULT_NEW_PASSPHRASE="second")
    assert _json(folder, "check", DSVAULT_PASSPHRASE="second")["ok"] is True
    _run(folder, "kms", "passphrase", "--none", DSVAULT_PASSPHRASE="second")
    assert _json(folder, "check")["ok"] is True


def test_a_change_of_passphrase_that_was_cut_short_is_finished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut between two files, the same command finishes it; a third passphrase is refused and changes nothing."""
    from vault import deployment, keyfile

    real = keyfile.reseal
    count = [0]

    def cut(*arguments: Any, **options: Any) -> None:
        count[0] += 1
        if count[0] == 4:
            raise InvalidInput("cut")
        real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(keyfile, "reseal", cut)
        with pytest.raises(InvalidInput, match="cut"):
            deployment.change_passphrase(folder, "new")
    with pytest.raises(InvalidInput):
        deployment.change_passphrase(folder, "a third")
    deployment.change_passphrase(folder, "new")
    monkeypatch.setenv("DSVAULT_PASSPHRASE", "new")
    assert vault.open(folder).check().ok
