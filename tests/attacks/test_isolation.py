"""What a vendor's compartment holds, and what a vendor's keys open."""

import itertools

import pyarrow as pa
import pytest

from tests.conftest import Lab
from tests.support.tables import rows
from vault.chunks import verify
from vault.derivation import chunk_key
from vault.errors import IntegrityError, KmsError
from vault.model import MANIFEST_GROUP, ChunkIdentity, KeyScope
from vault.workings.names import holders
from vault.workings.versions import OpenVersion, open_version


def _versions(lab: Lab) -> dict[str, OpenVersion]:
    """The newest version of every compartment, by holder."""
    parts = lab.vault.parts
    with parts.catalog.read() as transaction:
        names = {holder.id: holder.name for holder in holders(transaction, parts.sealer())}
        compartments = transaction.compartments()
    return {names[row.holder]: open_version(parts, parts.keyring, row) for row in compartments}


def _columns(version: OpenVersion) -> set[str]:
    return {column.name for column in version.manifest.columns}


def test_a_compartment_holds_only_granted_columns(published: Lab) -> None:
    """A vendor's compartment has the columns that its grants name or filter by, and no other."""
    published.vault.grant("acme", "evals", ["prompt"], where="lang = 'en'")
    published.vault.publish("evals", rows(60), shard_rows=30)
    found = _versions(published)
    assert _columns(found["acme"]) == {"prompt", "lang"}
    assert {ref.group for ref in found["acme"].refs()} == found["acme"].manifest.groups
    assert found["acme"].manifest.version == 2
    assert "globex" not in found
    assert len(list(found["acme"].refs())) == 2 * 2
    # No object is left over: the owner's two versions, and acme's columns of each, with their manifests.
    objects = list(published.vault.parts.store.list("objects"))
    assert len(objects) == (6 * 4 + 1) + (6 * 2 + 1) + (2 * 4 + 1) + (2 * 2 + 1)


def test_rows_assigned_to_another_vendor_are_not_fanned_out(lab: Lab) -> None:
    """With --assign-by each row is in its own vendor's compartment and in no other; null is the owner's."""
    table = pa.table({"n": range(90), "who": (["acme"] * 2 + ["globex", None]) * 22 + ["acme", "globex"]})
    lab.vault.publish("tasks", table, assign_by="who", shard_rows=20)
    for vendor in ("acme", "globex"):
        lab.vault.grant(vendor, "tasks", ["n"])
    parts = lab.broker_parts()
    from tests.support.reading import read

    for vendor in ("acme", "globex"):
        expected = sorted(row["n"] for row in table.to_pylist() if row["who"] == vendor)
        got = read(parts, lab.caller(parts, vendor), "tasks")
        assert sorted(got["n"].to_pylist()) == expected
    assert sorted(lab.vault.scan("tasks").read_all()["n"].to_pylist()) == list(range(90))
    found = _versions(lab)
    contents = {name: {ref.content for ref in version.refs()} for name, version in found.items()}
    assert not contents["acme"] & contents["globex"]


def test_one_holders_keys_open_nobody_elses_chunks(published: Lab) -> None:
    """Every data key is tried on every chunk of every holder: it opens its own compartment's group only."""
    for vendor in ("acme", "globex"):
        published.vault.grant(vendor, "evals", ["id", "prompt"])
    parts, found = published.vault.parts, _versions(published)
    keys = {
        (name, group): (key, parts.keyring.open(key))
        for name, version in found.items()
        for group, key in version.keys.items()
    }
    opened = tried = 0
    for (name, group), (key, data_key) in keys.items():
        for other, version in found.items():
            for ref in version.refs():
                data = parts.store.get(ref.object)
                own = (name, group) == (other, ref.group)
                for scope in {key.scope, version.keys[ref.group].scope}:
                    tried += 1
                    identity = ChunkIdentity(scope, ref.chunk)
                    if own:
                        verify(data, chunk_key(data_key, identity), identity)
                        opened += 1
                    else:
                        with pytest.raises(IntegrityError):
                            verify(data, chunk_key(data_key, identity), identity)
    assert opened == sum(version.manifest.chunks for version in found.values())
    assert tried > opened


def test_a_kms_key_unwraps_its_own_holders_data_keys_only(published: Lab) -> None:
    """No holder's KMS key unwraps another's data key, nor its own under another context."""
    for vendor in ("acme", "globex"):
        published.vault.grant(vendor, "evals", ["id", "prompt"])
    parts, found = published.vault.parts, _versions(published)
    for left, right in itertools.permutations(found, 2):
        kms_key = found[left].keys[MANIFEST_GROUP].kms_key
        for key in found[right].keys.values():
            with pytest.raises(KmsError):
                parts.kms.unwrap(kms_key, key.wrapped, key.scope.context())
    key = next(iter(found["acme"].keys.values()))
    scope = key.scope
    for other in (
        KeyScope(scope.vault, scope.compartment, scope.group, scope.epoch + 1),
        KeyScope(scope.vault, scope.compartment, "0" * 32, scope.epoch),
        KeyScope(scope.vault, "0" * 32, scope.group, scope.epoch),
        KeyScope("0" * 32, scope.compartment, scope.group, scope.epoch),
    ):
        with pytest.raises(KmsError):
            parts.kms.unwrap(key.kms_key, key.wrapped, other.context())


def test_a_broker_of_one_vendor_holds_no_other_key(published: Lab) -> None:
    """Without the other key files, a process opens one vendor's grants and nobody else's."""
    for vendor in ("acme", "globex"):
        published.vault.grant(vendor, "evals", ["id"])
    parts = published.vault.parts
    found = _versions(published)
    acme_file = found["acme"].keys[MANIFEST_GROUP].kms_key.removeprefix("local:")
    credentials = {
        vendor: published.vault.issue_credential(vendor, bearer=True).profile.token for vendor in ("acme", "globex")
    }
    for path in (published.folder / "broker" / "kms").glob("*.json"):
        if path.stem != acme_file:
            path.unlink()
    broker = published.broker_parts()
    from tests.support.reading import read
    from vault import access

    acme = access.authenticate(broker, credentials["acme"], "test")
    assert read(broker, acme).num_rows == 100
    globex = access.authenticate(broker, credentials["globex"], "test")
    with pytest.raises(KmsError):
        read(broker, globex)
    assert parts.vault == broker.vault
