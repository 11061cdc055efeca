"""Settings from the environment: every one of them, what wins, and what is refused."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer

import vault
from tests.conftest import Lab
from vault import deployment
from vault.configuration import Configuration
from vault.errors import IntegrityError, InvalidInput, NotFound, VaultError
from vault.settings import SETTINGS, refuse_unknown
from vault.spool import SpoolLimits
from vault.submission import Quarantine
from vault.trust import Role
from vault_cli.main import app

_ROOT = Path(__file__).parents[2]
_ONLY_FOR_HELP = {"--vault", "--json", "--help"}


def _options(command: str) -> dict[str, Any]:
    program: Any = typer.main.get_command(app)
    return {parameter.opts[0]: parameter for parameter in program.commands[command].params if parameter.opts}


def _run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "vault_cli.main", *arguments],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def test_every_option_of_serve_has_its_variable() -> None:
    """What serve takes, it takes from the environment too, under the name that the table says."""
    of_serve = {each.option: each.variable for each in SETTINGS if each.of == "serve"}
    taken = {name: found.envvar for name, found in _options("serve").items() if name not in _ONLY_FOR_HELP}
    assert taken == of_serve


def test_every_key_of_the_file_has_its_variable() -> None:
    """What may stand in config.toml, but for the format, is a setting; so is what init takes for it."""
    keys = {each.key for each in SETTINGS if each.key is not None}
    there = set(Configuration.__dataclass_fields__) - {
        "sources",
        "data_keys",
        "grace",
        "sharing",
        "witness",
        "submissions",
    }
    tables = {"data_keys.age", "data_keys.keys", "data_keys.uses", "gc.grace", "witness.url", "witness.required"}
    tables |= {"sharing.life", "sharing.vendor_bytes", "sharing.total_bytes"}
    tables |= {f"submissions.{each.name}" for each in fields(Quarantine)}
    assert keys == there | tables
    of_init = {each.option for each in SETTINGS if each.of == "init"}
    assert of_init == set(_options("init")) - _ONLY_FOR_HELP - {"folder"}


def test_every_variable_in_the_code_is_a_setting() -> None:
    """A variable that the code asks for and the table lacks would be refused before it is read."""
    known = {each.variable for each in SETTINGS}
    sources = [*(_ROOT / "vault").rglob("*.py"), *(_ROOT / "cli").rglob("*.py")]
    asked = {name for path in sources for name in re.findall(r"\bDSVAULT_[A-Z0-9_]*[A-Z0-9]\b", path.read_text())}
    assert asked <= known | {"DSVAULT_SERVE"}


def test_the_table_of_settings_is_complete() -> None:
    """Each setting has a line of its own with its variable, its key and its option; and no line is of none."""
    text = (_ROOT / "docs" / "reference" / "settings.md").read_text()
    lines = {match[1]: match[0] for match in re.finditer(r"^\| `(DSVAULT_\w+)` .*$", text, re.MULTILINE)}
    assert set(lines) == {each.variable for each in SETTINGS}
    for each in SETTINGS:
        for part in (each.key, f"{each.of} {each.option}" if each.option else None):
            assert part is None or f"`{part}`" in lines[each.variable], each


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DSVAULT_SERVE_VENDOR", "DSVAULT_SERVE_VENDORS"),
        ("DSVAULT_ROOT_FINGERPINT", "DSVAULT_ROOT_FINGERPRINT"),
        ("DSVAULT_WITNES_REQUIRED", "DSVAULT_WITNESS_REQUIRED"),
        ("DSVAULT_PASPHRASE", "DSVAULT_PASSPHRASE"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    """What it was to guard would be left open, so nothing is opened or made; its value is not told."""
    monkeypatch.setenv(name, "value-of-somebody")
    for opening in (deployment.open_broker, deployment.open_owner, lambda _folder: deployment.passphrase()):
        with pytest.raises(InvalidInput, match=rf"{name}: .* {meant} is the nearest") as caught:
            opening(lab.folder)
        assert "somebody" not in str(caught.value)
    with pytest.raises(InvalidInput, match=name):
        vault.init(lab.folder.parent / "other")
    assert not (lab.folder.parent / "other").exists()


def test_a_setting_without_a_value_is_refused() -> None:
    """A template that lost its value would have a broker serve every vendor; none of what may be empty is refused."""
    for each in SETTINGS:
        if each.may_be_empty:
            refuse_unknown({each.variable: ""})
            continue
        for nothing in ("", "  "):
            with pytest.raises(InvalidInput, match=f"{each.variable}: .* without a value"):
                refuse_unknown({each.variable: nothing})
    refuse_unknown({"DSVAULT": "", "OTHER_DSVAULT_X": "1", "_DSVAULT_COMPLETE": "source_bash"})


def test_serve_refuses_what_it_would_pass_over() -> None:
    """The command too, before it looks for a vault."""
    for variable, value in (("DSVAULT_SERVE_VENDORS", ""), ("DSVAULT_SERVE_VENDORZ", "acme")):
        done = _run("serve", "--vault", "/nowhere", **{variable: value})
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert variable in done.stderr


def test_an_option_wins_over_the_environment_and_that_over_the_file(
    granted: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the file what nothing else says is left."""
    path = granted.folder / "broker" / "config.toml"
    path.write_text(path.read_text() + "\n[data_keys]\nage = 50\nkeys = 7\n")
    monkeypatch.setenv("DSVAULT_DATA_KEYS_AGE", "20.5")
    found = Configuration.read(path).data_keys
    assert (found.age, found.keys) == (20.5, 7)
    assert deployment.open_broker(granted.folder)[0].keyring.age == 20.5
    monkeypatch.setenv("DSVAULT_SERVE_LOG_LEVEL", "loud")
    monkeypatch.setenv("DSVAULT_SERVE_GRACE", "9h")
    done = _run("serve", "--vault", str(granted.folder), "--log-level", "error")
    assert done.stderr == "dsvault: DSVAULT_SERVE_GRACE: give 1h at the most\n"
    done = _run("serve", "--vault", str(granted.folder), "--grace", "1s")
    assert done.stderr == "dsvault: DSVAULT_SERVE_LOG_LEVEL: use info, warning or error\n"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DSVAULT_STORE", "secret-scheme://x"),
        ("DSVAULT_CATALOG", "mysql://user:secret@host/x"),
        ("DSVAULT_CATALOG", "secret"),
        ("DSVAULT_KMS", "secret://x"),
        ("DSVAULT_WITNESS_URL", "secret-scheme://x"),
        ("DSVAULT_WITNESS_REQUIRED", "secret"),
        ("DSVAULT_WITNESS_REQUIRED", "true"),
        ("DSVAULT_DATA_KEYS_AGE", "61"),
        ("DSVAULT_DATA_KEYS_AGE", "nan"),
        ("DSVAULT_DATA_KEYS_KEYS", "secret"),
        ("DSVAULT_GC_GRACE", "soon"),
    ],
)
def test_a_bad_value_names_its_variable(lab: Lab, monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """And not itself, since it may be a secret that stands under the wrong name."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidInput, match=variable) as caught:
        deployment.open_owner(lab.folder)
    assert "user:secret" not in str(caught.value)
    assert "--" not in str(caught.value)


def test_a_misspelt_key_of_the_file_is_refused_too(lab: Lab) -> None:
    """A witness that is misspelt would not be required."""
    path = lab.folder / "broker" / "config.toml"
    path.write_text(path.read_text() + '\n[witnes]\nurl = "x"\nrequired = true\n')
    with pytest.raises(InvalidInput, match="'witnes'; 'witness' is the nearest"):
        deployment.open_broker(lab.folder)


def _held(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("*/config.toml"))


def test_what_the_environment_says_stays_out_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vault made with DSVAULT_CATALOG has it in no file, works with it, and says what is missing without it."""
    monkeypatch.setenv("DSVAULT_CATALOG", f"sqlite:///{tmp_path}/secret.db")
    monkeypatch.setenv("DSVAULT_GC_GRACE", "2h")
    made = vault.init(tmp_path / "lab")
    made.add_vendor("acme")
    assert "secret" not in _held(tmp_path / "lab")
    assert (tmp_path / "secret.db").exists()
    assert [each.name for each in vault.open(tmp_path / "lab").vendors()] == ["acme"]
    assert deployment.grace(tmp_path / "lab").total_seconds() == 7200
    monkeypatch.delenv("DSVAULT_CATALOG")
    with pytest.raises(InvalidInput, match="'catalog' is missing, and DSVAULT_CATALOG is not set"):
        vault.open(tmp_path / "lab")


def test_init_refuses_what_the_next_command_would_overrule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option that differs from its variable, and the settings of a vault that is there already."""
    monkeypatch.setenv("DSVAULT_STORE", str(tmp_path / "one"))
    with pytest.raises(InvalidInput, match="--store: DSVAULT_STORE says otherwise"):
        vault.init(tmp_path / "lab", store=str(tmp_path / "two"))
    monkeypatch.setenv("DSVAULT_ROOT_FINGERPRINT", "0" * 64)
    with pytest.raises(InvalidInput, match="DSVAULT_ROOT_FINGERPRINT"):
        vault.init(tmp_path / "lab")
    assert not (tmp_path / "lab").exists()


# A broker without files: the environment and the pinned root document.


def _bare(lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch, without: Iterable[str] = ()) -> Path:
    """A folder with the log key alone, and the environment that says the rest of the lab's broker."""
    found = Configuration.read(lab.folder / "broker" / "config.toml")
    values = {
        "STORE": str(lab.folder / found.store),
        "CATALOG": f"sqlite:///{lab.folder / 'catalog.db'}",
        "KMS": "local:",
        "ROOT_FINGERPRINT": found.root_fingerprint,
    }
    (folder / "broker").mkdir(parents=True)
    for path in (lab.folder / "broker").glob("log*.json"):
        shutil.copy(path, folder / "broker")
    (folder / "broker" / "kms").symlink_to(lab.folder / "broker" / "kms")
    for name, value in values.items():
        if name not in without:
            monkeypatch.setenv(f"DSVAULT_{name}", value)
    return folder


def test_a_broker_starts_from_the_environment_and_the_fingerprint(
    granted: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vault's id and the root documents come from the catalog, pinned; after a rotation of a key too."""
    granted.vault.rotate_key(Role.PUBLISHER)
    folder = _bare(granted, tmp_path / "bare", monkeypatch)
    parts, _ = deployment.open_broker(folder)
    assert (parts.vault, parts.root.version) == (granted.vault.parts.vault, 2)
    assert sorted(path.name for path in (folder / "broker").iterdir()) == ["kms", "log.json"]


def test_a_bare_broker_believes_the_pinned_root_alone(
    granted: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another fingerprint, another vault's catalog, and another vault's id are each refused."""
    folder = _bare(granted, tmp_path / "bare", monkeypatch)
    other = vault_of(tmp_path / "other")
    for variable, value in (
        ("DSVAULT_ROOT_FINGERPRINT", "0" * 64),
        ("DSVAULT_CATALOG", f"sqlite:///{other / 'catalog.db'}"),
        ("DSVAULT_STORE", str(other / "store")),
        ("DSVAULT_VAULT_ID", "f" * 32),
    ):
        with monkeypatch.context() as patched:
            patched.setenv(variable, value)
            with pytest.raises(IntegrityError):
                deployment.open_broker(folder)


def vault_of(folder: Path) -> Path:
    """Another vault, made while the environment says nothing."""
    with pytest.MonkeyPatch.context() as patched:
        for each in SETTINGS:
            patched.delenv(each.variable, raising=False)
        vault.init(folder)
    return folder


def test_a_bare_broker_needs_the_stores_word_on_the_newest_root(
    granted: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A catalog without its newest root document is found by the store; a store without any, or away, is refused."""
    granted.vault.rotate_key(Role.PUBLISHER)
    folder = _bare(granted, tmp_path / "bare", monkeypatch)
    with granted.vault.parts.catalog.write() as transaction:
        transaction.connection.exec_driver_sql("DELETE FROM roots WHERE version = 2")
    with pytest.raises(IntegrityError, match="rolled back"):
        deployment.open_broker(folder)
    roots = granted.folder / "store" / "roots"
    roots.rename(roots.with_name("aside"))
    with pytest.raises(IntegrityError, match="the store has no root document"):
        deployment.open_broker(folder)


@pytest.mark.parametrize("lacking", ["STORE", "CATALOG", "KMS", "ROOT_FINGERPRINT"])
def test_a_bare_broker_says_what_it_lacks(
    granted: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """The variable is named; with none at all there is no vault."""
    folder = _bare(granted, tmp_path / "bare", monkeypatch, without=[lacking])
    with pytest.raises(InvalidInput, match=f"DSVAULT_{lacking} is not set"):
        deployment.open_broker(folder)
    for each in SETTINGS:
        monkeypatch.delenv(each.variable, raising=False)
    with pytest.raises(NotFound, match="there is no vault here"):
        deployment.open_broker(folder)


def test_a_lost_root_document_is_not_taken_from_the_catalog(granted: Lab) -> None:
    """Where a configuration stands in a file, the chain beside it says how far a catalog may not be rolled back."""
    (granted.folder / "broker" / "root.json").unlink()
    with pytest.raises(VaultError, match="root document cannot be read"):
        deployment.open_broker(granted.folder)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("DSVAULT_SHARING_LIFE", "10s", "DSVAULT_SHARING_LIFE: a shared file's address is good for 1m to 1d"),
        ("DSVAULT_SHARING_LIFE", "long", "DSVAULT_SHARING_LIFE: 'long' is not a duration"),
        ("DSVAULT_SHARING_VENDOR_BYTES", "0", "DSVAULT_SHARING_VENDOR_BYTES: a number of bytes is 1 or more"),
        ("DSVAULT_SHARING_TOTAL_BYTES", "1.5", "DSVAULT_SHARING_TOTAL_BYTES takes whole numbers of bytes"),
    ],
)
def test_what_is_said_of_sharing_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    """A life or a cap that is none is refused by the variable's name."""
    monkeypatch.setenv("DSVAULT_STORE", "store")
    monkeypatch.setenv("DSVAULT_CATALOG", "sqlite:///x")
    monkeypatch.setenv("DSVAULT_KMS", "local:")
    monkeypatch.setenv("DSVAULT_ROOT_FINGERPRINT", "0" * 64)
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidInput) as refused:
        Configuration.read(tmp_path / "config.toml")
    assert said in str(refused.value)


def test_what_is_said_of_sharing_is_written_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in the file where it is not the usual, and comes back."""
    monkeypatch.setenv("DSVAULT_STORE", "store")
    monkeypatch.setenv("DSVAULT_CATALOG", "sqlite:///x")
    monkeypatch.setenv("DSVAULT_KMS", "local:")
    monkeypatch.setenv("DSVAULT_ROOT_FINGERPRINT", "0" * 64)
    usual = Configuration.read(tmp_path / "config.toml")
    assert "[sharing]" not in usual.text()
    limits = SpoolLimits(timedelta(minutes=10), 5, 7)
    text = replace(usual, sharing=limits).text()
    assert Configuration.parse(text, tmp_path / "config.toml").sharing == limits
