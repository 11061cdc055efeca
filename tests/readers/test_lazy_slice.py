"""Lazy scans of a vendor's slice: what a query does not need, the broker does not open."""

import time
from collections.abc import Callable, Iterator

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.shown import GRANTED, Shown, expected, publish, shown
from tests.support.tables import rows
from vault.errors import InvalidInput, NotGranted


@pytest.fixture
def at(cast: Callable[..., Lab]) -> Iterator[Shown]:
    """The dataset that every client is shown, at a broker."""
    with shown(cast(publish)) as found:
        yield found


def test_a_query_asks_for_its_columns_and_rows(at: Shown) -> None:
    """Equal rows, and the log has the columns of the query and of its condition, which went to the broker."""
    truth = pl.DataFrame(expected())
    frame = at.dataset.scan_polars()
    assert_frame_equal(frame.collect(), truth)
    wanted = (pl.col("meta").struct.field("source") == "s1") & (pl.col("price") > 4) & pl.col("prompt").is_not_null()
    query = frame.filter(wanted).select("id", "price")
    assert_frame_equal(query.collect(), truth.filter(wanted).select("id", "price"))
    assert frame.select("id").head(3).collect()["id"].to_list() == truth["id"].head(3).to_list()
    reads = at.reads()
    assert [sorted(read["columns"]) for read in reads] == [sorted(GRANTED), ["id", "meta", "price", "prompt"], ["id"]]
    assert '"meta"."source"' in reads[1]["where"]
    assert '"price" > 4' in reads[1]["where"]
    assert (reads[2]["where"], reads[2]["limit"]) == (None, 3)


def test_a_scan_is_put_together(at: Shown) -> None:
    """Columns, conditions and a limit are one read; a field of a nested column is one column with that field."""
    chosen = at.dataset.lazy().select("id", "meta.size").where("id > 10").where("id < 80 OR price IS NULL").limit(5)
    read = chosen.to_arrow()
    truth = [row for row in expected().to_pylist() if row["id"] > 10][:5]
    assert read["id"].to_pylist() == [row["id"] for row in truth]
    assert read["meta"].to_pylist() == [row["meta"] and {"size": row["meta"]["size"]} for row in truth]
    assert chosen.schema.equals(read.schema)
    assert duckdb.from_arrow(chosen.scan()).fetchall()[0][0] == truth[0]["id"]
    assert at.reads()[0]["columns"] == ["id", "meta.size"]


def test_a_masked_column_is_filtered_here(lab: Lab) -> None:
    """A broker takes no condition about it: a query that has one is answered all the same, by what the mask shows."""
    lab.vault.publish("evals", rows(10), key="id")
    lab.vault.grant("acme", "evals", ["id", "prompt", "meta"], masks={"prompt": "redact", "meta.notes": "null"})
    with broker(lab.folder) as endpoint:
        dataset = vault.connect(lab.profile("acme", endpoint)).dataset("evals")
        assert dataset.unsearchable() == {"prompt", "meta"}
        shown_text = dataset.to_polars()["prompt"][0]
        frame = dataset.scan_polars()
        assert frame.filter((pl.col("prompt") == shown_text) & (pl.col("id") < 4)).collect().height == 4
        assert frame.filter(pl.col("prompt") == "prompt number 1").collect().height == 0
        with pytest.raises(NotGranted):
            dataset.to_arrow(where="prompt = 'prompt number 1'")


def test_a_revoked_grant_refuses_a_frame(at: Shown) -> None:
    """When it is collected again: nothing of the last time is given out."""
    frame = at.dataset.scan_polars()
    assert frame.collect().height == expected().num_rows
    at.lab.vault.revoke(at.grant.id)
    time.sleep(1.1)
    with pytest.raises(NotGranted, match="no dataset or column of that name is granted to you"):
        frame.collect()
    at.check_log(reads=1)


def test_no_condition_gets_out_of_its_parentheses(at: Shown) -> None:
    """A condition that would end them and go on by itself is refused before anything is sent."""
    lazy = at.dataset.lazy().where("id < 10")
    with pytest.raises(InvalidInput, match="^where: "):
        lazy.where("id < 10) OR (id > 50")
    assert at.reads() == []
