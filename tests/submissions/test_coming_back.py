"""Labels that come back: sealed by the vendor, received by a broker that cannot read them, taken over by the owner."""

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

import vault
from tests.conftest import Lab
from tests.support.submitting import Desk, labels
from vault.errors import Conflict, InvalidInput, NotFound
from vault.workings.versions import OpenVersion, open_version

pytestmark = pytest.mark.both_catalogs


@pytest.fixture
def desk(granted: Lab) -> Desk:
    """Acme, which was granted id, prompt and lang of the English rows."""
    return Desk(granted)


def _version(lab: Lab, number: int) -> OpenVersion:
    parts = lab.vault.parts
    with parts.catalog.read() as transaction:
        (place,) = transaction.compartments(holder=parts.owner)
    return open_version(parts, parts.keyring, place, number)


def _column(lab: Lab, name: str) -> dict[int, object]:
    table = lab.vault.scan("evals", columns=["id", name]).read_all()
    return dict(zip(table.column("id").to_pylist(), table.column(name).to_pylist(), strict=True))


def test_labels_become_a_column_of_a_new_version(desk: Desk) -> None:
    """Rows are joined by the key column, whatever their order; those without a label are null, and nothing else changes."""
    lab = desk.lab.vault
    before = lab.scan("evals").read_all()
    identity = desk.submit(labels(8, 0, 62))
    done = lab.accept_submission(identity)
    assert (done.version, done.columns, done.rows, done.gone) == (2, ("label",), 3, 0)
    found = _column(desk.lab, "label")
    assert {row: value for row, value in found.items() if value is not None} == {
        0: "label of 0",
        8: "label of 8",
        62: "label of 62",
    }
    assert len(found) == 100
    assert lab.scan("evals", columns=before.column_names).read_all().equals(before)


def test_every_other_chunk_is_shared(desk: Desk) -> None:
    """Only the new column is written: all objects of the version before are objects of the next."""
    desk.lab.vault.accept_submission(desk.submit(labels(0)))
    first, second = _version(desk.lab, 1), _version(desk.lab, 2)
    before, after = ({ref.object for ref in version.refs()} for version in (first, second))
    assert before < after
    assert len(after - before) == 4  # one column of four shards


def test_no_vendor_is_granted_what_came_back(desk: Desk) -> None:
    """Neither its sender nor another: a grant names columns, and this one is new."""
    desk.lab.vault.grant("globex", "evals", ["id", "score"])
    desk.lab.vault.accept_submission(desk.submit(labels(0)))
    for vendor in ("acme", "globex"):
        (offer,) = Desk(desk.lab, vendor).dataset().grants
        assert "label" not in offer.schema.names
        assert offer.version == 2


def test_several_columns_of_any_type_come_as_they_are(desk: Desk) -> None:
    """Nested ones, dictionaries, and times that Parquet alone would change."""
    sent = labels(
        2,
        4,
        verdict=pa.array(["good", "bad"]).dictionary_encode(),
        spans=[[{"from": 1, "to": 2}], None],
        at=pa.array([0, 60], pa.timestamp("s")),
    )
    desk.lab.vault.accept_submission(desk.submit(sent))
    found = desk.lab.vault.scan("evals", columns=["id", "verdict", "spans", "at"], where="id = 2 or id = 4").read_all()
    assert found.schema.types == sent.schema.types
    assert found.to_pylist() == sent.to_pylist()


def test_what_is_in_quarantine_can_be_looked_at(desk: Desk) -> None:
    """The owner sees whose it is, of what, and the table itself, and takes nothing over by looking."""
    lab = desk.lab.vault
    identity = desk.submit(labels(0, 2))
    (state,) = lab.submissions("acme")
    assert (state.id, state.vendor, state.dataset, state.rows, state.state) == (identity, "acme", "evals", 2, "waiting")
    assert lab.submissions("globex") == []
    detail = lab.submission(identity)
    assert (detail.problem, detail.key) == (None, "id")
    assert detail.table.equals(labels(0, 2))
    assert lab.show("evals").versions[-1].version == 1


def test_one_that_was_settled_stays_so(desk: Desk) -> None:
    """It is accepted once; what was rejected is not accepted later, nor the other way about."""
    lab = desk.lab.vault
    first, second = desk.submit(labels(0)), desk.submit(labels(2))
    lab.accept_submission(first)
    lab.reject_submission(second, "not asked for")
    for identity in (first, second):
        with pytest.raises(Conflict, match="already"):
            lab.accept_submission(identity, {"label": "other"})
        with pytest.raises(Conflict, match="already"):
            lab.reject_submission(identity, "no")
    assert [each.state for each in lab.submissions()] == ["accepted", "rejected"]
    assert [(each.version, each.reason) for each in lab.submissions()] == [(2, None), (None, "not asked for")]
    with pytest.raises(NotFound):
        lab.accept_submission("0" * 32)


def test_a_taken_name_is_refused_and_another_can_be_given(desk: Desk) -> None:
    """Also where it differs in case alone, which is found before anything is written."""
    lab = desk.lab.vault
    identity = desk.submit(labels(0, score=[1.5]))
    with pytest.raises(InvalidInput, match=r"has a column 'score' already: --rename score=NAME"):
        lab.accept_submission(identity)
    with pytest.raises(InvalidInput, match="differ only in case"):
        lab.accept_submission(identity, {"score": "SCORE"})
    with pytest.raises(InvalidInput, match="--rename: the submission has no column 'id'"):
        lab.accept_submission(identity, {"id": "other"})
    assert lab.accept_submission(identity, {"score": "graded"}).columns == ("graded",)
    assert _column(desk.lab, "graded")[0] == 1.5


def test_merge_fills_what_earlier_submissions_left_empty(desk: Desk) -> None:
    """A value that is there stays, and is counted; the column keeps its id, so that a grant of it holds on."""
    lab = desk.lab.vault
    lab.accept_submission(desk.submit(labels(0, 2, label=["first", None])))
    granted = lab.grant("globex", "evals", ["id", "label"])
    identity = desk.submit(labels(0, 2, 4, label=["second", "second", "second"]))
    with pytest.raises(InvalidInput, match="already"):
        lab.accept_submission(identity)
    done = lab.accept_submission(identity, merge=True)
    assert (done.rows, done.kept) == (3, 1)
    found = _column(desk.lab, "label")
    assert [found[row] for row in (0, 2, 4, 6)] == ["first", "second", "second", None]
    other = Desk(desk.lab, "globex").dataset()
    assert [offer.grant for offer in other.grants] == [granted.id]
    assert "label" in other.schema.names


def test_merge_fills_no_column_of_the_labs_own(desk: Desk) -> None:
    """A vendor never writes where the lab did, even where that is null."""
    identity = desk.submit(labels(0, score=[9.0]))
    with pytest.raises(InvalidInput, match="did not come from a submission"):
        desk.lab.vault.accept_submission(identity, merge=True)


def test_rows_that_are_gone_since_are_counted(desk: Desk) -> None:
    """An erased row, or one that a later version lacks, has no place for a label; the others keep theirs."""
    lab = desk.lab.vault
    identity = desk.submit(labels(0, 2, 90))
    lab.erase("evals", keys=[2])
    lab.publish("evals", lab.scan("evals", where="id < 50").read_all(), shard_rows=30)
    done = lab.accept_submission(identity)
    assert (done.rows, done.gone) == (1, 2)
    assert _column(desk.lab, "label")[0] == "label of 0"


def test_two_that_are_accepted_at_once_both_come_to_stand(desk: Desk) -> None:
    """One waits for nobody and begins anew on the other's version; one submission is accepted once, whoever is first."""
    first, second = desk.submit(labels(0)), desk.submit(labels(2, other=["x"]))
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda each: vault.open(desk.lab.folder).accept_submission(each), (first, second)))
    assert sorted(each.version for each in done) == [2, 3]
    third = desk.submit(labels(4, third=["x"]))

    def take(_: int) -> bool:
        try:
            vault.open(desk.lab.folder).accept_submission(third)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor() as pool:
        assert sorted(pool.map(take, range(3))) == [False, False, True]
    assert desk.lab.vault.show("evals").versions[-1].version == 4
    assert _column(desk.lab, "other")[2] == "x"
