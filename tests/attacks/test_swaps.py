"""Objects in the store that are moved, swapped, replaced, cut or changed: refused, and never read as data."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Lab
from tests.support.catalog import sql
from tests.support.reading import read
from tests.support.tables import rows
from vault.errors import IntegrityError, NotFound, VaultError
from vault.manifest import ChunkRef
from vault.model import MANIFEST_GROUP
from vault.owner import Vault
from vault.workings.versions import OpenVersion, live_keys, manifest_statement, open_manifest, open_version

pytestmark = pytest.mark.both_catalogs


def _version(lab: Lab, holder: str) -> OpenVersion:
    parts = lab.vault.parts
    wanted = parts.owner if holder == "owner" else next(v.id for v in lab.vault.vendors() if v.name == holder)
    with parts.catalog.read() as transaction:
        (row,) = transaction.compartments(holder=wanted)
    return open_version(parts, parts.keyring, row)


def _chunk(version: OpenVersion, column: str, shard: int = 0) -> ChunkRef:
    found = version.manifest.column(column)
    assert found is not None
    return next(ref for ref in version.refs() if (ref.group, ref.shard) == (found.group, shard))


def _path(lab: Lab, ref: ChunkRef) -> Path:
    return lab.folder / "store" / ref.object


def _read_as_vendor(lab: Lab) -> pa.Table:
    parts = lab.broker_parts()
    return read(parts, lab.caller(parts, "acme"))


@pytest.fixture
def both(cast: Callable[..., Lab]) -> Lab:
    """acme and globex with the same columns, all text and all alike, so that a swap would go unnoticed by type."""
    return cast(_both)


def _both(opened: Vault) -> None:
    table = rows(60).select(["prompt", "answer"])
    opened.publish("evals", table, shard_rows=30)
    for vendor in ("acme", "globex"):
        opened.grant(vendor, "evals", ["prompt", "answer"])


def _same_column(lab: Lab) -> ChunkRef:
    return _chunk(_version(lab, "acme"), "prompt", 1)


def _other_column(lab: Lab) -> ChunkRef:
    return _chunk(_version(lab, "acme"), "answer", 0)


def _other_vendor(lab: Lab) -> ChunkRef:
    return _chunk(_version(lab, "globex"), "prompt", 0)


def _owners(lab: Lab) -> ChunkRef:
    return _chunk(_version(lab, "owner"), "prompt", 0)


@pytest.mark.parametrize("other", [_same_column, _other_column, _other_vendor, _owners])
def test_a_swapped_chunk_is_refused(both: Lab, other: Callable[[Lab], ChunkRef]) -> None:
    """Another chunk of the same column, of another column, of another vendor or of the owner does not open."""
    target = _path(both, _chunk(_version(both, "acme"), "prompt", 0))
    shutil.copyfile(_path(both, other(both)), target)
    with pytest.raises(IntegrityError):
        _read_as_vendor(both)
    assert not both.vault.check().ok


def test_a_chunk_of_an_earlier_epoch_is_refused(both: Lab) -> None:
    """The chunk that stood there before a rekey does not open in the place of the new one."""
    old = _path(both, _chunk(_version(both, "acme"), "prompt", 0)).read_bytes()
    both.vault.rekey(vendor="acme")
    _path(both, _chunk(_version(both, "acme"), "prompt", 0)).write_bytes(old)
    with pytest.raises(IntegrityError):
        _read_as_vendor(both)


def test_a_chunk_of_another_vault_is_refused(both: Lab, tmp_path: Path) -> None:
    """A chunk of a vault that holds the same rows does not open here."""
    import vault

    elsewhere = vault.init(tmp_path / "elsewhere")
    elsewhere.add_vendor("acme")
    elsewhere.publish("evals", rows(60).select(["prompt", "answer"]), shard_rows=30)
    elsewhere.grant("acme", "evals", ["prompt", "answer"])
    other = Lab(tmp_path / "elsewhere", elsewhere)
    foreign = _path(other, _chunk(_version(other, "acme"), "prompt", 0))
    shutil.copyfile(foreign, _path(both, _chunk(_version(both, "acme"), "prompt", 0)))
    with pytest.raises(IntegrityError):
        _read_as_vendor(both)


def test_a_plain_parquet_file_is_refused(both: Lab) -> None:
    """A plain Parquet file with the very rows is not read in a chunk's place."""
    ref = _chunk(_version(both, "acme"), "prompt", 0)
    pq.write_table(rows(30).select(["prompt"]), _path(both, ref))
    with pytest.raises(IntegrityError):
        _read_as_vendor(both)


def test_a_truncated_or_missing_chunk_is_refused(both: Lab) -> None:
    """A chunk that was cut, or is gone, gives an error and no shorter table; check names it."""
    path = _path(both, _chunk(_version(both, "acme"), "prompt", 1))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(IntegrityError):
        _read_as_vendor(both)
    path.unlink()
    with pytest.raises(NotFound):
        _read_as_vendor(both)
    (fault,) = both.vault.check().faults
    assert "missing" in fault


def test_each_flipped_byte_of_a_chunk_is_refused(lab: Lab) -> None:
    """No single byte of a stored chunk can change without the read being refused."""
    lab.vault.publish("evals", pa.table({"n": [1, 2, 3]}))
    lab.vault.grant("acme", "evals", ["n"])
    parts = lab.broker_parts(key_age=0)  # a broker that holds keys holds small chunks too, and would not look
    caller = lab.caller(parts, "acme")
    expected = read(parts, caller)
    path = _path(lab, _chunk(_version(lab, "acme"), "n", 0))
    whole = path.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 8)
        path.write_bytes(changed)
        with pytest.raises(VaultError):
            read(parts, caller)
    path.write_bytes(whole)
    assert read(parts, caller).equals(expected)


def test_each_flipped_byte_of_a_manifest_is_refused(lab: Lab) -> None:
    """No single byte of a stored manifest can change without every read being refused."""
    lab.vault.publish("evals", pa.table({"n": [1, 2, 3]}))
    parts = lab.vault.parts
    with parts.catalog.read() as transaction:
        (row,) = transaction.compartments()
        head = parts.heads.compartment_in(transaction, row)
        assert head is not None
        statement = manifest_statement(parts, transaction, head, 1)
        keys = live_keys(parts, transaction, head, frozenset((MANIFEST_GROUP,)))
    path = lab.folder / "store" / statement.object
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[position] ^= 0x20
        path.write_bytes(changed)
        with pytest.raises(IntegrityError):
            open_manifest(parts, parts.keyring, keys[MANIFEST_GROUP], statement)


def test_an_old_manifest_under_a_newer_head_is_refused(both: Lab) -> None:
    """The manifest that a newer version replaced is not believed, in the store or in the catalog."""
    with sql(both) as connection:
        before = connection.execute("select compartment, version, generation, statement from versions").fetchall()
    both.vault.rekey(vendor="acme")
    with sql(both) as connection:
        for compartment, version, _, statement in before:
            connection.execute(
                "update versions set statement = ? where compartment = ? and version = ? and retired is null",
                (statement, compartment, version),
            )
    with pytest.raises(IntegrityError):
        _read_as_vendor(both)


def test_an_older_manifest_of_the_same_epoch_is_refused(published: Lab) -> None:
    """A manifest that another grant superseded, under keys that still live, is not believed either."""
    published.vault.grant("acme", "evals", ["id"])
    with sql(published) as connection:
        before = connection.execute("select compartment, version, statement from versions").fetchall()
    published.vault.grant("acme", "evals", ["prompt"])
    with sql(published) as connection:
        for compartment, version, statement in before:
            connection.execute(
                "update versions set statement = ? where compartment = ? and version = ? and retired is null",
                (statement, compartment, version),
            )
    with pytest.raises(IntegrityError, match="not the one that its head names"):
        _read_as_vendor(published)
