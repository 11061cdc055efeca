"""The command line: exit codes, one document with --json, and a sentence for every mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.brokers import broker
from tests.support.program import document, dsvault, dsvault_process
from tests.support.tables import rows


def _make(tmp_path: Path) -> Path:
    pq.write_table(rows(40), tmp_path / "rows.parquet")
    assert dsvault("init", "lab", cwd=tmp_path).returncode == 0
    assert dsvault("vendor", "add", "acme", "--vault", "lab", cwd=tmp_path).returncode == 0
    words = ("publish", "rows.parquet", "--dataset", "evals", "--key", "id", "--vault", "lab")
    assert dsvault(*words, cwd=tmp_path).returncode == 0
    return tmp_path


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A working directory with a vault in ``lab``, a vendor, a dataset and a source file."""
    return _make(tmp_path)


@pytest.fixture(scope="module")
def unchanging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, shared by tests of mistakes, which change nothing."""
    return _make(tmp_path_factory.mktemp("mistakes"))


def test_the_whole_story_with_json(made: Path) -> None:
    """Every command prints one JSON document, and what it says can be given to the next."""
    lab = made / "lab"
    assert document("vendor", "list", cwd=lab)["vendors"][0]["name"] == "acme"
    assert document("dataset", "list", cwd=lab)["datasets"][0]["rows"] == 40
    words = ("grant", "acme", "evals", "--columns", "id,prompt", "--where", "lang = 'en'", "--expires", "1d")
    grant = document(*words, "--purpose", "review", cwd=lab)
    assert document("grants", "--vendor", "acme", cwd=lab)["grants"][0]["state"] == "live"
    assert document("dataset", "show", "evals", cwd=lab)["grants"][0]["id"] == grant["id"]
    with broker(lab) as endpoint:
        issued = document("credential", "issue", "acme", "-o", made / "acme.json", "--endpoint", endpoint, cwd=lab)
        assert document("credential", "list", cwd=lab)["credentials"][0]["id"] == issued["id"]
        fetch = ("fetch", "evals", "--profile", made / "acme.json")
        assert len(document(*fetch, cwd=made)["rows"]) == 20
        for ending in ("parquet", "jsonl", "csv", "arrow"):
            out = made / f"out.{ending}"
            assert document(*fetch, "-o", out, cwd=made) == {
                "dataset": "evals",
                "rows": 20,
                "resumed": 0,
                "file": str(out),
            }
            assert out.stat().st_mode & 0o077 == 0
        assert pq.read_table(made / "out.parquet").column_names == ["id", "prompt"]
        shown = dsvault(*fetch, "--columns", "id", "--where", "id < 4", "--limit", 1, cwd=made)
        assert (shown.returncode, shown.stdout.split()) == (0, ["id", "0"])
        refused = dsvault_process(*fetch, "--columns", "answer", cwd=made)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.count("\n") == 1
    document("dataset", "export", "evals", "-o", made / "all.jsonl", "--columns", "id", "--where", "id < 3", cwd=lab)
    assert (made / "all.jsonl").read_text() == '{"id":0}\n{"id":1}\n{"id":2}\n'
    document("vendor", "freeze", "acme", cwd=lab)
    document("vendor", "thaw", "acme", cwd=lab)
    assert document("rotate", "rekey", "--vendor", "acme", cwd=lab)["rekeyed"][0]["chunks"] == 3
    document("revoke", grant["id"], cwd=lab)
    document("credential", "revoke", issued["id"], cwd=lab)
    assert document("gc", "--grace", "0s", cwd=lab)["objects"] > 0
    assert document("check", cwd=lab)["ok"] is True
    entries = document("audit", "show", cwd=lab)["entries"]
    assert document("audit", "verify", cwd=lab)["entries"] >= len(entries) > 10


@pytest.mark.parametrize(
    "words",
    [
        ("publish", "nope.jsonl", "--dataset", "evals"),
        ("publish", "rows.parquet", "--dataset", "Not A Name"),
        ("publish", "rows.parquet", "--dataset", "owner"),
        ("publish", "rows.parquet", "--dataset", "evals", "--key", "nope"),
        ("publish", "rows.parquet", "--dataset", "evals", "--key", "lang"),
        ("publish", "rows.parquet", "--dataset", "evals", "--assign-by", "lang"),
        ("publish", "rows.parquet", "--dataset", "evals", "--group", "nonsense"),
        ("publish", "rows.parquet", "--dataset", "evals", "--group", "g=id,nope"),
        ("publish", "rows.parquet", "--dataset", "new", "--append"),
        ("vendor", "add", "acme"),
        ("vendor", "add", "../acme"),
        ("vendor", "freeze", "nobody"),
        ("vendor", "freeze", "owner"),
        ("grant", "nobody", "evals", "--columns", "id"),
        ("grant", "acme", "nothing", "--columns", "id"),
        ("grant", "acme", "evals", "--columns", "nope"),
        ("grant", "acme", "evals", "--columns", ","),
        ("grant", "acme", "evals", "--columns", "id,id"),
        ("grant", "acme", "evals", "--columns", "id", "--where", "nope = 1"),
        ("grant", "acme", "evals", "--columns", "id", "--where", "id = 'x'"),
        ("grant", "acme", "evals", "--columns", "id", "--where", "1=1; drop table x"),
        ("grant", "acme", "evals", "--columns", "id", "--expires", "soon"),
        ("grant", "acme", "evals", "--columns", "id", "--expires", "0s"),
        ("revoke", "f" * 32),
        ("credential", "issue", "acme", "-o", "rows.parquet"),
        ("credential", "issue", "acme", "-o", "no/such/dir/x.json"),
        ("credential", "issue", "nobody", "-o", "x.json"),
        ("credential", "revoke", "zzz"),
        ("dataset", "show", "nothing"),
        ("dataset", "export", "evals", "-o", "x.docx"),
        ("dataset", "export", "evals", "-o", "no/such/dir/x.csv"),
        ("dataset", "export", "evals", "-o", "x.csv", "--version", "9"),
        ("dataset", "export", "evals", "-o", "x.csv", "--columns", "nope"),
        ("fetch", "evals", "--profile", "rows.parquet"),
        ("fetch", "evals", "--profile", "nope.json"),
        ("fetch", "evals", "--profile", "nope.json", "-o", "x.docx"),
        ("rotate", "rekey", "--vendor", "nobody"),
        ("gc", "--grace", "never"),
        ("serve", "--tls-cert", "rows.parquet"),
        ("serve", "--vendors", "nobody"),
        ("serve", "--host", "no.such.host.invalid"),
        ("init", "lab"),
        ("init", "new", "--store", "nosuchscheme://x"),
        ("init", "new", "--catalog", "mysql://x/y"),
        ("init", "new", "--kms", "nothing://x"),
    ],
)  # fmt: skip
def test_a_mistake_gives_one_sentence(unchanging: Path, words: tuple[str, ...]) -> None:
    """A user's mistake: exit code 1, nothing on stdout, one sentence on stderr, and no traceback."""
    options = () if words[0] in {"init", "fetch"} else ("--vault", "lab")
    # A server says where its process logs to, and what ends it.
    program = dsvault_process if words[0] == "serve" else dsvault
    done = program(*words, *options, cwd=unchanging)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("dsvault: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert not (unchanging / "new").exists()


@pytest.mark.parametrize("words", [("nope",), ("publish",), ("grant", "acme"), ("fetch", "evals"), ("gc", "--nope")])
def test_wrong_usage_is_two(unchanging: Path, words: tuple[str, ...]) -> None:
    """What the command line itself cannot understand exits with 2."""
    done = dsvault(*words, cwd=unchanging)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_the_vault_is_found(made: Path) -> None:
    """--vault, then $DSVAULT, then the nearest marker upwards; elsewhere a sentence."""
    deep = made / "lab" / "a" / "b"
    deep.mkdir(parents=True)
    assert dsvault_process("vendor", "list", cwd=deep).returncode == 0
    assert dsvault("vendor", "list", cwd=made, environment={"DSVAULT": str(made / "lab")}).returncode == 0
    lost = dsvault_process("vendor", "list", cwd=made)
    assert (lost.returncode, lost.stderr.count("\n")) == (1, 1)


def test_help_and_version_answer_without_a_vault(tmp_path: Path) -> None:
    """Help, version and shell completion load neither database nor Arrow."""
    assert dsvault_process("--version", cwd=tmp_path).stdout.startswith("dsvault ")
    for words in (("--help",), ("publish", "--help")):
        assert dsvault(*words, cwd=tmp_path).returncode == 0
    program = Path(sys.executable).parent / "dsvault"
    asked = {**os.environ, "_DSVAULT_COMPLETE": "source_bash"}
    completion = subprocess.run([program], env=asked, capture_output=True, text=True, check=False)
    assert "complete" in completion.stdout
    script = "import sys, vault_cli.main; sys.exit(bool({'sqlalchemy', 'pyarrow', 'fastapi'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_wrong_or_missing_passphrase_is_a_sentence(tmp_path: Path) -> None:
    """A vault under a passphrase says what it needs."""
    assert dsvault("init", "lab", cwd=tmp_path, environment={"DSVAULT_PASSPHRASE": "right"}).returncode == 0
    for environment in ({}, {"DSVAULT_PASSPHRASE": "wrong"}):
        done = dsvault("vendor", "list", "--vault", "lab", cwd=tmp_path, environment=environment)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "passphrase" in done.stderr


def test_the_demo_comes_out_as_told(tmp_path: Path) -> None:
    """The demo plays to its end, and leaves a vault to look at."""
    told = document("demo", "--dir", tmp_path / "demo", cwd=tmp_path)
    assert told["ok"] is True
    assert len(told["steps"]) >= 14
    assert dsvault("check", "--vault", tmp_path / "demo" / "lab", cwd=tmp_path).returncode == 0
    again = dsvault("demo", "--dir", tmp_path, cwd=tmp_path)
    assert again.returncode == 1
