"""Names that who took a broker over claims in the log: a report by name is of the vendor that the lab added."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Lab
from tests.support.tables import rows
from vault.audit import Entry, Kind
from vault.errors import IntegrityError

FALSE = "f" * 32


def _live(lab: Lab) -> None:
    """The lab adds newco, and grants it something."""
    lab.vault.add_vendor("newco")
    lab.vault.publish("evals", rows(20), key="id")
    lab.vault.grant("newco", "evals", ["id"])
    lab.vault.issue_credential("newco")


def _claim(lab: Lab) -> None:
    lab.broker_parts().journal.record(Kind.VENDOR_ADDED, vendor="newco", vendor_id=FALSE, key="local:x")


@pytest.mark.parametrize("order", [(_claim, _live), (_live, _claim)])
def test_a_name_that_was_claimed_is_that_of_who_has_a_signed_head(
    lab: Lab, order: tuple[Callable[[Lab], None], ...]
) -> None:
    """Whether it was claimed before the lab gave it or behind that, the report is of the lab's vendor and tells."""
    for each in order:
        each(lab)
    made = lab.vault.incident_report("newco").exposure
    assert made.vendor_id != FALSE
    assert made.cells_not_read == 20
    assert any("as another vendor, too" in doubt for doubt in made.doubts)


def test_where_heads_do_not_tell_it_is_asked_for_by_id(lab: Lab) -> None:
    """Who claims a name and takes the heads away has no report made of his own vendor unseen."""
    _claim(lab)
    _live(lab)
    vendor = next(entry for _, entry in lab.vault.audit_entries() if entry.kind is Kind.GRANTED).fields["vendor_id"]
    with lab.vault.parts.catalog.write() as transaction:
        transaction.connection.exec_driver_sql("DELETE FROM heads")
    with pytest.raises(IntegrityError, match=f"ask for one by its id .*{vendor}"):
        lab.vault.incident_report("newco")
    assert lab.vault.incident_report(vendor).exposure.cells_not_read == 20


@pytest.mark.parametrize(
    "plain", [b'{"kind":"vendor added"', b'{"kind":"vendor added","vendor":"newco"}', b'["kind":"vendor added"]']
)
def test_what_adds_nobody_keeps_nobody_from_a_report(lab: Lab, monkeypatch: pytest.MonkeyPatch, plain: bytes) -> None:
    """An entry that only begins like that of a new vendor is told of, and passed over."""

    def encode(_entry: Any) -> bytes:
        return plain

    with monkeypatch.context() as patch:
        patch.setattr(Entry, "encode", encode)
        lab.broker_parts().journal.record(Kind.VENDOR_ADDED)
    _live(lab)
    made = lab.vault.incident_report("newco").exposure
    assert made.cells_not_read == 20
    assert made.odd
