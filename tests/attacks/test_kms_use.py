"""What the KMS is asked for, counted at the KMS."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.conftest import Lab
from tests.support.reading import read
from vault import access
from vault.errors import KmsError, NotGranted
from vault.keyring import ScopedKeyring
from vault.kms import Kms
from vault.model import MANIFEST_GROUP, METADATA_GROUP


class Counting:
    """A KMS that remembers the contexts that it was asked to unwrap."""

    def __init__(self, kms: Kms) -> None:
        self._kms = kms
        self.unwrapped: list[dict[str, str]] = []

    def unwrap(self, key: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        self.unwrapped.append(dict(context))
        return self._kms.unwrap(key, wrapped, context)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kms, name)

    def groups(self) -> list[str]:
        """The column groups that were unwrapped, the metadata and manifest keys left out."""
        found = [context["dsvault:group"] for context in self.unwrapped]
        return sorted(group for group in found if group not in {MANIFEST_GROUP, METADATA_GROUP})


def _counting(lab: Lab, key_age: float = 60) -> tuple[Any, Counting]:
    counters: list[Counting] = []

    def wrap(kms: Kms) -> Kms:
        counters.append(Counting(kms))
        return counters[0]  # type: ignore[return-value]

    return lab.broker_parts(kms_wrap=wrap, key_age=key_age), counters[0]


def _groups_of(lab: Lab, *columns: str) -> list[str]:
    from tests.attacks.test_swaps import _version

    manifest = _version(lab, "owner").manifest
    return sorted(column.group for column in manifest.columns if column.name in columns)


def test_exactly_the_granted_columns_are_unwrapped(published: Lab) -> None:
    """A read unwraps the granted columns and the filter's, each once, and no other."""
    published.vault.grant("acme", "evals", ["id", "prompt"], where="lang = 'en'")
    parts, kms = _counting(published)
    caller = published.caller(parts, "acme")
    assert kms.groups() == []
    assert read(parts, caller).num_rows == 50
    assert kms.groups() == _groups_of(published, "id", "prompt", "lang")
    assert len(kms.unwrapped) <= 3 + 3
    assert read(parts, caller).num_rows == 50
    assert len(kms.groups()) == 3


def test_a_narrower_read_unwraps_less(published: Lab) -> None:
    """Only the columns that a request needs are unwrapped, of those that its grant allows."""
    published.vault.grant("acme", "evals", ["id", "prompt", "answer"])
    parts, kms = _counting(published)
    caller = published.caller(parts, "acme")
    read(parts, caller, columns=("prompt",))
    assert kms.groups() == _groups_of(published, "prompt")


def test_a_refused_request_unwraps_no_column(published: Lab) -> None:
    """Whatever is refused is refused before any column's key is asked for."""
    published.vault.grant("acme", "evals", ["id"])
    parts, kms = _counting(published)
    caller = published.caller(parts, "acme")
    for columns in (("answer",), ("id", "answer"), ("nope",)):
        with pytest.raises(NotGranted):
            read(parts, caller, columns=columns)
    assert kms.groups() == []


def test_a_permits_keyring_refuses_other_keys_before_the_kms(published: Lab) -> None:
    """The keyring of a permit raises for any other compartment, group or epoch without a KMS call."""
    from tests.attacks.test_swaps import _version

    published.vault.grant("acme", "evals", ["id", "prompt"])
    parts, kms = _counting(published)
    version = _version(published, "acme")
    group = next(column.group for column in version.manifest.columns if column.name == "id")
    scope = version.keys[group].scope
    scoped = ScopedKeyring(parts.keyring, (scope,))
    for other, key in version.keys.items():
        if other != group:
            with pytest.raises(NotGranted):
                scoped.open(key)
    for other in (replace(scope, compartment="0" * 32), replace(scope, epoch=2), replace(scope, vault="0" * 32)):
        with pytest.raises(NotGranted):
            ScopedKeyring(parts.keyring, (other,)).open(version.keys[group])
    assert kms.unwrapped == []
    assert len(scoped.open(version.keys[group])) == 32


def test_no_key_is_asked_for_when_the_log_cannot_be_written(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """No entry, no key and no data: a log that fails stops the read before the KMS is asked."""
    from vault.errors import AuditError
    from vault.workings.journal import Journal

    parts, kms = _counting(granted)
    caller = granted.caller(parts, "acme")

    def full(*_args: object, **_fields: object) -> int:
        raise AuditError("the audit log could not be written")

    monkeypatch.setattr(Journal, "record_in", full)
    with pytest.raises(AuditError):
        read(parts, caller)
    assert kms.groups() == []


def test_a_disabled_kms_key_stops_a_cold_broker(granted: Lab) -> None:
    """With the vendor's KMS key disabled nothing is served; the owner's own reads go on."""
    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    row = next(vendor for vendor in granted.vault.vendors() if vendor.name == "acme")
    with granted.vault.parts.catalog.read() as transaction:
        holder = transaction.holder(row.id)
    assert holder is not None
    granted.vault.parts.kms.disable_key(holder.kms_key)
    with pytest.raises(KmsError):
        read(parts, caller)
    assert granted.vault.scan("evals").read_all().num_rows == 100
    granted.vault.parts.kms.enable_key(holder.kms_key)
    assert read(parts, caller).num_rows == 50
    assert isinstance(caller, access.Caller)
