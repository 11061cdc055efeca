"""What somebody learns who has the store and the SQLite file, and nothing else."""

import random
import secrets
from datetime import timedelta
from pathlib import Path

import pyarrow as pa

from tests.conftest import Lab

_NAMES = (
    "zebra-dataset",
    "quartzvendor",
    "Ω-column-peculiar",
    "walrus_answer",
    "purpose-of-narwhal",
    "axolotl-literal",
)


def _bytes_at_rest(lab: Lab) -> bytes:
    paths = [path for path in lab.folder.glob("catalog.db*") if path.is_file()]
    paths += [path for path in (lab.folder / "store").rglob("*") if path.is_file()]
    names = "\n".join(str(path.relative_to(lab.folder)) for path in paths).encode()
    return names + b"".join(path.read_bytes() for path in paths)


def _shown(data: bytes, marker: str) -> bool:
    raw = marker.encode()
    return raw in data or raw.hex().encode() in data or raw in data.lower() or marker.encode("utf-16-le") in data


def test_no_name_and_no_value_is_in_the_clear(lab: Lab) -> None:
    """Neither names nor any of 1,000 random markers stand in the store or the catalog after a whole history."""
    markers = [secrets.token_hex(12) for _ in range(1000)]
    dataset, vendor, column, answer, purpose, literal = _NAMES
    table = pa.table(
        {
            column: markers[:500],
            answer: pa.array(markers[500:]).dictionary_encode(),
            "nested-meta": [{"inner-field": random.choice(markers)} for _ in range(500)],
        }
    )
    lab.vault.add_vendor(vendor)
    lab.vault.publish(dataset, table, groups={"grouplabel": [column, answer]}, shard_rows=100)
    grant = lab.vault.grant(vendor, dataset, ["nested-meta"], where=f"\"{answer}\" <> '{literal}'", purpose=purpose)
    lab.vault.issue_credential(vendor)
    lab.vault.publish(dataset, table, shard_rows=100)
    lab.vault.rekey(vendor=vendor)
    lab.vault.scan(dataset, where=f"\"{answer}\" <> '{literal}'").read_all()
    lab.vault.revoke(grant.id)
    lab.vault.gc(timedelta(0))
    data = _bytes_at_rest(lab)
    assert len(data) > 50_000
    assert [name for name in (*_NAMES, "grouplabel", "inner-field", "nested-meta") if _shown(data, name)] == []
    assert [marker for marker in markers if _shown(data, marker)] == []


def test_the_search_would_find_a_leak(lab: Lab, tmp_path: Path) -> None:
    """The same search finds a marker that was written to the store in the clear."""
    (lab.folder / "store").mkdir(exist_ok=True)
    (lab.folder / "store" / "leak").write_bytes(b"xx zebra-dataset xx")
    assert _shown(_bytes_at_rest(lab), "zebra-dataset")


def test_secret_files_are_for_their_owner_only(lab: Lab) -> None:
    """Key files, configuration, profiles and directories of keys are closed to group and others."""
    lab.profile("acme", "http://127.0.0.1:1")
    closed = [*lab.folder.rglob("*.json"), *lab.folder.rglob("config.toml"), *lab.folder.parent.glob("*.json")]
    assert len(closed) > 8
    assert [path for path in closed if path.stat().st_mode & 0o077] == []
    assert [path for path in (lab.folder / "owner", lab.folder / "broker") if path.stat().st_mode & 0o077] == []
