"""Reading through the access path in this process."""

import pyarrow as pa

from vault import access
from vault.policy import Request
from vault.workings.parts import Parts


def read(parts: Parts, caller: access.Caller, dataset: str = "evals", **request: object) -> pa.Table:
    """Everything that one read delivers."""
    delivery = access.open_delivery(parts, caller, Request(dataset, **request))  # type: ignore[arg-type]
    return pa.Table.from_batches(list(delivery.batches), delivery.schema)
