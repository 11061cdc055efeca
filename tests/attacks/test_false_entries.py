"""What who took a broker over can append: it keeps nobody from reading the rest of the log."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Lab
from tests.support.reading import read
from vault import access
from vault.audit import Entry, Kind, leaves
from vault.encoding import timestamp
from vault.errors import IntegrityError
from vault.policy import Request
from vault.siem import Format
from vault.trust import Role
from vault.workings.journal import Journal

pytestmark = pytest.mark.both_catalogs


class _Sealed:
    """A sealer, to nobody, of what is no entry."""

    def seal(self, _entry: Entry) -> bytes:
        return b"\x01" + bytes(300)


def _sealed_to_nobody(lab: Lab, patch: pytest.MonkeyPatch) -> None:
    journal = lab.broker_parts().journal
    patch.setattr(Journal, "_sealing", lambda _journal, _root: _Sealed())
    journal.record(Kind.FROZEN)


def _of_no_kind(lab: Lab, patch: pytest.MonkeyPatch) -> None:
    journal = lab.broker_parts().journal
    patch.setattr(Entry, "encode", lambda _entry: b'{"kind":"unheard of"}')
    journal.record(Kind.FROZEN)


def _at_no_time(lab: Lab, patch: pytest.MonkeyPatch) -> None:
    journal = lab.broker_parts().journal
    patch.setattr(leaves, "timestamp", lambda _moment: "z" * 27)
    journal.record(Kind.REFUSED, vendor_id="x", reason="x")


def _at_the_end_of_time(lab: Lab, patch: pytest.MonkeyPatch) -> None:
    journal = lab.broker_parts().journal
    patch.setattr(leaves, "timestamp", lambda _moment: "9999-12-31T23:59:59.999999Z")
    journal.record(Kind.REFUSED, vendor_id="x", reason="x")


_FALSE = [_sealed_to_nobody, _of_no_kind, _at_no_time, _at_the_end_of_time]


def _exact(lab: Lab) -> Any:
    found = lab.vault.incident_report("acme").exposure
    assert found.through < (datetime.now(UTC).timestamp() + 3600) * 1e6
    return found.cells, found.cells_at_most


@pytest.mark.parametrize("false", _FALSE)
def test_a_false_entry_hides_nothing(
    granted: Lab, tmp_path: Path, false: Callable[[Lab, pytest.MonkeyPatch], None]
) -> None:
    """Report, list, export and evidence have all that is in the log beside what nobody can open or place in time."""
    parts = granted.broker_parts()
    read(parts, granted.caller(parts, "acme"))
    parts.journal.settle()
    before = _exact(granted)
    assert before[0] > 0
    with pytest.MonkeyPatch.context() as patch:
        false(granted, patch)
    granted.vault.freeze("acme")
    assert _exact(granted) == before
    size = granted.vault.audit_verify()
    entries = granted.vault.audit_entries()
    assert [number for number, _ in entries[:size]] == list(range(1, size + 1))
    for form in Format:
        assert [number for number, _ in granted.vault.audit_export(form)][:size] == list(range(1, size + 1))
    bundle = tmp_path / "acme.evidence.zip"
    granted.vault.contain("acme", bundle=bundle)
    assert granted.vault.verify_bundle(bundle).vendor == "acme"


def test_what_does_not_open_is_named(granted: Lab) -> None:
    """An entry that no auditor's key opens is listed as one, and counts as one that cannot be understood."""
    with pytest.MonkeyPatch.context() as patch:
        _sealed_to_nobody(granted, patch)
    (number,) = [number for number, entry in granted.vault.audit_entries() if entry.kind is Kind.UNREADABLE]
    assert number in granted.vault.incident_report("acme").exposure.odd


def test_without_an_auditors_key_nothing_passes_for_false(granted: Lab) -> None:
    """Entries that the key of another auditor would open are missing, and no report is made without them."""
    granted.vault.rotate_key(Role.AUDITOR)
    retired = granted.folder / "owner" / "keys" / "retired"
    for path in retired.glob("auditor*"):
        path.unlink()
    with pytest.raises(IntegrityError, match="does not open"):
        granted.vault.incident_report("acme")
    with pytest.raises(IntegrityError, match="does not open"):
        granted.vault.audit_entries()


@pytest.mark.parametrize("change", [{"since": "x"}, {"keys": [1]}, {"keys": None}, {"process": {}, "since": None}])
def test_a_false_announcement_stops_no_comparison(granted: Lab, tmp_path: Path, change: dict[str, Any]) -> None:
    """An entry that does not say which keys were opened explains nothing, and the rest is compared."""
    fields = {"keys": [["1" * 32, "2" * 32, 1]], "since": "2026-12-01T00:00:00.000000Z", "process": "3" * 32}
    granted.broker_parts().journal.record(Kind.KEYS_OPENED, **fields | change)
    trail = tmp_path / "trail.jsonl"
    asked = {"eventSource": "kms.amazonaws.com", "eventName": "ListKeys", "eventTime": "2026-12-01T00:00:00Z"}
    trail.write_text(json.dumps(asked) + "\n")
    assert granted.vault.reconcile(trail).ok


def test_another_brokers_read_has_no_other_end(granted: Lab) -> None:
    """The bound of a read whose broker was killed stays what it was, whatever another process says of its end."""
    parts = granted.broker_parts()
    delivery = access.open_delivery(parts, granted.caller(parts, "acme"), Request("evals"))
    next(iter(delivery.batches))
    before = _exact(granted)
    assert before[1] > 0
    ((number, begun),) = [each for each in granted.vault.audit_entries() if each[1].kind is Kind.READ_BEGUN]
    assert len(begun.fields["nonce"]) == 32
    granted.broker_parts().journal.record(
        Kind.READ_ENDED, vendor="acme", vendor_id=begun.fields["vendor_id"], read=number, served=[], rows=0, bytes=0,
        outcome="complete",
    )  # fmt: skip
    assert _exact(granted) == before


@pytest.mark.parametrize("delegates", [5, [1], {"id": "a"}, [{"id": []}], "a"])
def test_a_false_entry_stops_no_end_of_a_delegation(granted: Lab, delegates: Any) -> None:
    """What stands for delegations and is none is nobody's."""
    granted.broker_parts().journal.record(Kind.READ_BEGUN, delegates=delegates, vendor_id=[])
    assert granted.vault.end_delegation("acme", "a" * 32) is False


def test_a_false_statement_stops_no_comparison_with_grants(granted: Lab) -> None:
    """An entry with a list for a statement's digest records nothing, and what is live is compared all the same."""
    granted.broker_parts().journal.record(Kind.GRANTED, statement=[], grant={})
    assert granted.vault.unrecorded() == []


def test_a_bundle_says_of_no_stop_that_it_was_before_its_place_in_the_log(granted: Lab, tmp_path: Path) -> None:
    """A freeze that somebody appended as one of a month ago counts from when it was written."""
    journal, now = granted.broker_parts().journal, datetime.now(UTC)
    vendor = next(each.id for each in granted.vault.vendors() if each.name == "acme")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "_clock", lambda: now - timedelta(days=30))
        journal.record(Kind.FROZEN, vendor="acme", vendor_id=vendor)
    granted.vault.contain("acme", bundle=tmp_path / "acme.zip")
    assert granted.vault.verify_bundle(tmp_path / "acme.zip").frozen[1] > timestamp(now - timedelta(hours=1))
