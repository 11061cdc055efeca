"""A grant of one version gives that version for as long as it lives, whatever is published since."""

from collections.abc import Callable
from datetime import timedelta

import pyarrow as pa
import pytest

from tests.conftest import Lab
from tests.support.program import document
from tests.support.reading import later, read
from tests.support.tables import rows
from vault.errors import NotFound, NotGranted
from vault.owner import Vault
from vault.workings.versions import live_versions

pytestmark = pytest.mark.both_catalogs


@pytest.fixture
def versions(cast: Callable[..., Lab]) -> Lab:
    """Three versions of a dataset: 10, 20 and 30 rows."""
    return cast(_versions)


def _versions(opened: Vault) -> None:
    opened.publish("evals", rows(10), key="id", shard_rows=4)
    opened.publish("evals", rows(10, 10), append=True)
    opened.publish("evals", rows(10, 20), append=True)


def _held(lab: Lab, vendor: str) -> dict[int, set[str]]:
    """The columns of each version in a vendor's compartment."""
    parts = lab.vault.parts
    ids = {each.holder: each.id for each in lab.vault.kms_keys()}
    with parts.catalog.read() as transaction:
        (row,) = transaction.compartments(holder=ids[vendor])
    found = live_versions(parts, row)[1]
    return {each.manifest.version: {column.name for column in each.manifest.columns} for each in found}


def _rows(lab: Lab, vendor: str = "acme", **request: object) -> int:
    parts = lab.broker_parts()
    return read(parts, lab.caller(parts, vendor), **request).num_rows


def test_a_pinned_grant_stays_at_its_version(versions: Lab) -> None:
    """Neither an append nor a new version of other columns changes what it gives."""
    grant = versions.vault.grant("acme", "evals", ["id", "prompt"], version=2)
    assert (grant.versions, grant.pinned) == ("2", 2)
    assert _rows(versions) == 20
    versions.vault.publish("evals", rows(10, 30), append=True)
    versions.vault.publish("evals", pa.table({"id": [1], "other": ["x"]}))
    assert _rows(versions) == 20
    assert _held(versions, "acme") == {2: {"id", "prompt"}}
    assert versions.vault.check().ok


def test_a_pinned_grant_and_one_of_the_newest_live_together(versions: Lab) -> None:
    """Each reads its version; of each version the compartment holds what is granted of it and no more."""
    old = versions.vault.grant("acme", "evals", ["id", "prompt"], version=1)
    new = versions.vault.grant("acme", "evals", ["id", "lang"])
    assert _held(versions, "acme") == {1: {"id", "prompt"}, 3: {"id", "lang"}}
    versions.vault.publish("evals", rows(5, 30), append=True)
    assert _held(versions, "acme") == {1: {"id", "prompt"}, 4: {"id", "lang"}}
    assert (_rows(versions, grant=old.id), _rows(versions, grant=new.id)) == (10, 35)
    with pytest.raises(NotGranted):
        _rows(versions, grant=old.id, columns=("lang",))
    with pytest.raises(NotGranted):
        _rows(versions, grant=new.id, columns=("prompt",))
    assert versions.vault.check().ok


def test_both_on_the_newest_version_part_when_another_comes(versions: Lab) -> None:
    """The version that a grant is pinned to loses what only the other grant needed of it."""
    versions.vault.grant("acme", "evals", ["id", "lang"])
    versions.vault.grant("acme", "evals", ["id", "prompt"], version=3)
    assert _held(versions, "acme") == {3: {"id", "lang", "prompt"}}
    versions.vault.publish("evals", rows(5, 30), append=True)
    assert _held(versions, "acme") == {3: {"id", "prompt"}, 4: {"id", "lang"}}


def test_a_revoked_or_expired_pin_is_taken_away_by_gc(versions: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the version nothing stays, and no other version comes up in its place."""
    pinned = versions.vault.grant("acme", "evals", ["id"], version=1)
    versions.vault.grant("acme", "evals", ["prompt"], version=2, expires=timedelta(hours=1))
    versions.vault.revoke(pinned.id)
    versions.vault.gc()
    assert _held(versions, "acme") == {2: {"prompt"}}
    later(monkeypatch, timedelta(hours=2))
    with pytest.raises(NotGranted):
        _rows(versions)


def test_a_version_that_is_not_there_cannot_be_granted(versions: Lab) -> None:
    """It is named, and no grant is made."""
    with pytest.raises(NotFound, match="the dataset 'evals' has no version 7"):
        versions.vault.grant("acme", "evals", ["id"], version=7)
    with pytest.raises(NotFound, match="has no version"):
        versions.vault.grant("acme", "evals", ["id"], version=0)
    assert versions.vault.grants() == []


def test_versions_that_grants_are_pinned_to_do_not_expire(versions: Lab) -> None:
    """``expire`` leaves them and says so, until the grant is revoked."""
    grant = versions.vault.grant("acme", "evals", ["id"], version=1)
    done = versions.vault.expire("evals", 1)
    assert (done.expired, done.left, done.pinned) == ((2,), (1, 3), (1,))
    assert _rows(versions) == 10
    versions.vault.revoke(grant.id)
    assert versions.vault.expire("evals", 1).expired == (1,)


def test_a_frozen_vendors_pin_holds_a_version_too(versions: Lab) -> None:
    """A freeze takes nothing away for good."""
    versions.vault.grant("acme", "evals", ["id"], version=1)
    versions.vault.freeze("acme")
    assert versions.vault.expire("evals", 1).pinned == (1,)
    versions.vault.thaw("acme")
    assert _rows(versions) == 10


def test_erased_rows_leave_pinned_versions_too(versions: Lab) -> None:
    """An erasure reaches every version, whoever has it."""
    versions.vault.grant("acme", "evals", ["id"], version=1)
    versions.vault.grant("acme", "evals", ["id", "lang"])
    versions.vault.erase("evals", keys=[3, 12])
    grants = {state.grant.pinned: state.grant.id for state in versions.vault.grants()}
    assert (_rows(versions, grant=grants[1]), _rows(versions, grant=grants[None])) == (9, 28)
    versions.vault.gc(timedelta(0))
    assert versions.vault.check().ok


def test_a_pinned_grant_may_be_leased(versions: Lab) -> None:
    """Leases are of the version that the grant is about."""
    from vault import access
    from vault.policy import Request

    versions.vault.grant("acme", "evals", ["id", "prompt"], version=2, delivery="lease")
    parts = versions.broker_parts()
    page = access.lease_page(parts, versions.caller(parts, "acme"), Request("evals", lease=True))
    assert (page.version, page.rows) == (2, 20)


def test_the_newest_version_is_never_a_pinned_one(versions: Lab) -> None:
    """A vendor who had both, and lost the one of the newest version, does not read the old one as the newest."""
    versions.vault.grant("acme", "evals", ["id"], version=1)
    newest = versions.vault.grant("acme", "evals", ["lang"])
    versions.vault.revoke(newest.id)
    versions.vault.gc(timedelta(0))
    assert _held(versions, "acme") == {1: {"id"}}
    versions.vault.publish("evals", rows(5, 30), append=True)
    assert _held(versions, "acme") == {1: {"id"}}
    versions.vault.grant("acme", "evals", ["lang"])
    assert _held(versions, "acme") == {1: {"id"}, 4: {"lang"}}


def test_the_command_line_takes_a_version(versions: Lab) -> None:
    """``grant --version`` and what ``grants`` and ``expire`` print of it."""

    def run(*arguments: str) -> dict[str, object]:
        return dict(document(*arguments, "--vault", versions.folder))

    made = run("grant", "acme", "evals", "--columns", "id,meta.source", "--version", "2")
    assert (made["versions"], made["columns"]) == ("2", ["id", "meta.source"])
    (listed,) = run("grants")["grants"]  # type: ignore[misc]
    assert (listed["versions"], listed["columns"]) == ("2", ["id", "meta.source"])
    assert run("dataset", "expire", "evals", "--keep", "1")["pinned"] == [2]
