"""Changes that come while something else is under way.

A version that commits is what the grants need by then, and a view of the catalog that was overtaken is taken anew.
"""

from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest

from tests.conftest import Lab
from tests.support.reading import read
from tests.support.tables import rows
from vault.catalog import Transaction
from vault.errors import Conflict
from vault.trust import VendorHead
from vault.workings.names import Holder, holders

pytestmark = pytest.mark.both_catalogs


def _publish_and(lab: Lab, act: Callable[[], object]) -> None:
    """Publish two batches in two shards, and act between them."""

    def batches() -> Iterator[pa.RecordBatch]:
        yield from rows(10).to_batches()
        act()
        yield from rows(10, start=10).to_batches()

    lab.vault.publish("evals", pa.RecordBatchReader.from_batches(rows(1).schema, batches()), shard_rows=10)


def _columns(lab: Lab, **request: object) -> list[str]:
    parts = lab.broker_parts()
    found = read(parts, lab.caller(parts, "acme"), **request)  # type: ignore[arg-type]
    assert found.num_rows == 20
    return list(found.column_names)


@pytest.mark.parametrize("had_it_before", [False, True])
def test_a_grant_in_the_midst_of_a_publish_is_followed(published: Lab, had_it_before: bool) -> None:
    """A column that is granted while rows are written, new or not yet collected, is in the version that commits."""
    published.vault.grant("acme", "evals", ["id"])
    if had_it_before:
        earlier = published.vault.grant("acme", "evals", ["prompt"])
        published.vault.revoke(earlier.id)
    _publish_and(published, lambda: published.vault.grant("acme", "evals", ["prompt"]))
    assert _columns(published, columns=("prompt",)) == ["prompt"]
    assert _columns(published, columns=("id",)) == ["id"]
    assert published.vault.check().faults == []


def test_a_revocation_in_the_midst_of_a_publish_is_followed(published: Lab) -> None:
    """A column whose grant ends while rows are written is not in the version that commits."""
    published.vault.grant("acme", "evals", ["id"])
    ended = published.vault.grant("acme", "evals", ["prompt"])
    _publish_and(published, lambda: published.vault.revoke(ended.id))
    assert _columns(published) == ["id"]
    parts = published.vault.parts
    with parts.catalog.read() as transaction:
        acme = next(row for row in transaction.compartments() if row.holder != parts.owner)
    from vault.workings.versions import open_version

    version = open_version(parts, parts.keyring, acme)
    assert [column.name for column in version.manifest.columns] == ["id"]
    assert published.vault.check().faults == []


def test_a_first_grant_in_the_midst_of_a_publish_is_followed(published: Lab) -> None:
    """A vendor that had nothing, or was not there, when a publish began reads the version that it ends in."""

    def act() -> None:
        published.vault.grant("acme", "evals", ["id", "prompt"])
        published.vault.add_vendor("latecomer")
        published.vault.grant("latecomer", "evals", ["answer"])

    _publish_and(published, act)
    assert _columns(published) == ["id", "prompt"]
    parts = published.broker_parts()
    assert read(parts, published.caller(parts, "latecomer")).equals(rows(20).select(["answer"]))


def test_a_head_that_comes_while_the_catalog_is_read_is_no_rollback(published: Lab) -> None:
    """Who asks the store, which knows of a later head than a view of the catalog, looks at the catalog again."""
    (acme,) = [row.id for row in _holders(published) if row.name == "acme"]
    heads = published.broker_parts().heads
    views: list[int] = []

    def read(transaction: Transaction) -> VendorHead:
        assert transaction.newest_head(acme) is not None
        if not views:
            published.vault.grant("acme", "evals", ["id"])
        views.append(len(views))
        return heads.vendor_in(transaction, acme)

    assert len(heads.reading(read).grants) == 1
    assert views == [0, 1]


def test_a_reader_that_every_time_is_overtaken_is_told_to_try_again(published: Lab) -> None:
    """A view of the catalog that is behind each time ends in a conflict, and never in an old head."""
    (acme,) = [row.id for row in _holders(published) if row.name == "acme"]

    def read(transaction: Transaction) -> VendorHead:
        assert transaction.newest_head(acme) is not None
        published.vault.grant("acme", "evals", ["id"])
        return published.broker_parts().heads.vendor_in(transaction, acme)

    with pytest.raises(Conflict, match="try again"):
        published.broker_parts().heads.reading(read)


def _holders(lab: Lab) -> list[Holder]:
    parts = lab.vault.parts
    with parts.catalog.read() as transaction:
        return holders(transaction, parts.sealer())
