"""Reading through the access path in this process."""

from datetime import timedelta

import pyarrow as pa
import pytest

from vault import access
from vault.access import callers, leases, permits, records, sharedfiles, streams, tables
from vault.policy import Request
from vault.workings import parts as workings_parts
from vault.workings.parts import Parts


def read(parts: Parts, caller: access.Caller, dataset: str = "evals", **request: object) -> pa.Table:
    """Everything that one read delivers."""
    delivery = access.open_delivery(parts, caller, Request(dataset, **request))  # type: ignore[arg-type]
    return pa.Table.from_batches(list(delivery.batches), delivery.schema)


def later(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Let the access path see a later time, by which expiry and days are judged."""
    for module in (callers, leases, permits, records, sharedfiles, streams, tables):
        monkeypatch.setattr(module, "trusted_now", lambda parts: workings_parts.trusted_now(parts) + by)
