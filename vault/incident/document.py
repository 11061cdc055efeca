"""The report as a document of JSON, specified in ``docs/reference/incident-report.md``.

Its form has a version of its own. Rows are told once for all columns that have the same: a column names its sets by
their place in ``sets``.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from vault.exposure import Amounts, Cells, Exposure, Flow, Part, Returned, RowSet, Span
from vault.incident.wording import exactly, summary
from vault.rowsets import item_of, items_of_shards

__all__ = ["FORM", "document"]

#: (major, minor) of the document; whoever reads it refuses a major that it does not know.
FORM: Final = (1, 1)
#: Sets of more runs of rows than this name them by shard only.
_MOST_RANGES: Final = 10_000


class _Sets:
    """Sets of rows, each told once."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        #: Equal sets are mostly the very same one, and else are told apart by what they hold.
        self._held: dict[int, tuple[RowSet, int]] = {}
        self._places: dict[tuple[int, bytes], int] = {}

    def place(self, rows: RowSet) -> int | None:
        """The place of a set; None for one without rows."""
        if not rows:
            return None
        if id(rows) not in self._held:
            place = self._places.setdefault((id(rows.layout), rows.content), len(self.told))
            if place == len(self.told):
                self.told.append(_told(rows))
            self._held[id(rows)] = rows, place
        return self._held[id(rows)][1]


def _told(rows: RowSet) -> dict[str, Any]:
    ranges = rows.ranges(_MOST_RANGES)
    items = [items_of_shards(first, stop - 1) for first, stop in rows.whole.tolist()]
    for shard in sorted(rows.part):
        mask = np.unpackbits(rows.part[shard], count=rows.layout.rows_of(shard), bitorder="little")
        items.append(item_of(shard, mask))
    return {
        "rows": rows.count,
        "ranges": [[first, stop - 1] for first, stop in ranges.tolist()] if ranges is not None else None,
        "items": items,
    }


def document(found: Exposure, minor: int = FORM[1]) -> dict[str, Any]:
    """The exposure as the document; of an earlier ``minor`` where it is held against one that an older release made."""
    sets = _Sets()
    return {
        "type": "incident report",
        "format": [FORM[0], minor],
        "vendor": found.vendor,
        "vendor_id": found.vendor_id,
        "since": exactly(found.since),
        "until": exactly(found.until),
        "entries": found.entries,
        "through": exactly(found.through),
        "summary": summary(found, with_returned=minor > 0),
        "total": {
            **_amounts(found.total),
            "cells": found.cells,
            "cells_at_most": found.cells_at_most,
            "cells_not_read": found.cells_not_read,
        },
        "datasets": _datasets(found),
        "columns": [_column(part, sets) for part in found.parts],
        "sets": sets.told,
        "flows": [_flow(flow) for flow in found.flows],
        "deliveries": [
            {
                "entry": each.number,
                "begun": exactly(each.begun),
                "ended": exactly(each.ended),
                "how": each.how,
                "outcome": each.outcome,
                "rows": each.rows,
                "bytes": each.bytes,
                "flow": each.flow,
            }
            for each in found.deliveries
        ],
        "deliveries_left_out": found.left_out,
        **_permissions(found),
        **_keys(found),
        "shared": [
            {
                "vendor": each.vendor,
                "vendor_id": each.vendor_id,
                "dataset": each.dataset,
                "version": each.version,
                "state": each.state,
                "columns": list(each.columns),
                "rows": each.rows,
                "rows_at_most": each.at_most,
                "since": exactly(each.since),
                "until": exactly(each.until),
            }
            for each in found.shared
        ],
        "refused": [
            {
                "reason": each.request.reason,
                "credential": each.request.credential,
                "delegates": _delegates(each.request.delegates),
                "subject": each.request.subject,
                "address": each.request.address,
                "dataset": each.request.dataset,
                "columns": list(each.request.columns),
                "count": each.count,
                "first": exactly(each.first),
                "last": exactly(each.last),
            }
            for each in found.refused
        ],
        **({"submissions": [_submission(each) for each in found.returned]} if minor > 0 else {}),
        "events": [
            {"entry": each.number, "time": exactly(each.time), "what": each.what, "detail": each.detail}
            for each in found.events
        ],
        "odd_entries": list(found.odd),
        "doubts": list(found.doubts),
        "compared": found.compared,
    }


def _amounts(of: Amounts) -> dict[str, int]:
    return {
        "reads": of.reads,
        "rows": of.rows,
        "bytes": of.bytes,
        "deliveries_at_most": of.bound_reads,
        "rows_at_most": of.bound_rows,
        "bytes_at_most": of.bound_bytes,
        "without_bytes": of.unsized,
    }


def _datasets(found: Exposure) -> list[dict[str, Any]]:
    names = {part.dataset_id: part.dataset for part in found.parts}
    names |= {flow.dataset_id: flow.dataset for flow in found.flows if flow.dataset_id not in names}
    return [
        {
            "dataset": name,
            "dataset_id": identity,
            **_amounts(found.datasets.get(identity, Amounts())),
            "cells": found.counted.get(identity, Cells()).exact,
            "cells_at_most": found.counted.get(identity, Cells()).at_most,
            "cells_not_read": found.counted.get(identity, Cells()).not_read,
        }
        for identity, name in sorted(names.items(), key=lambda item: (item[1], item[0]))
    ]


def _masks(masks: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"on": place, "mask": mask} for place, mask in masks]


def _column(part: Part, sets: _Sets) -> dict[str, Any]:
    return {
        "dataset": part.dataset,
        "dataset_id": part.dataset_id,
        "version": part.version,
        "state": part.state,
        "version_rows": part.layout.rows,
        "column": part.column,
        "column_id": part.column_id,
        "masks": _masks(part.masks),
        "exact": sets.place(part.exact),
        "at_most": sets.place(part.bound),
        "not_read": sets.place(part.could),
        "not_read_up_to": part.up_to,
        "reads": part.reads,
        "deliveries_at_most": part.bound_reads,
        "first": exactly(part.first),
        "last": exactly(part.last),
    }


def _delegates(delegates: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"id": identity, "to": name} for identity, name in delegates]


def _flow(flow: Flow) -> dict[str, Any]:
    return {
        "dataset": flow.dataset,
        "dataset_id": flow.dataset_id,
        "version": flow.version,
        "state": flow.state,
        "columns": list(flow.columns),
        "masks": _masks(flow.masks),
        "credential": flow.who.credential,
        "delegates": _delegates(flow.who.delegates),
        "subject": flow.who.subject,
        "address": flow.who.address,
        "grant": flow.who.grant,
        "purpose": flow.who.purpose,
        "where": flow.who.where,
        "delivery": flow.who.delivery,
        **_amounts(flow.amounts),
        "first": exactly(flow.first),
        "last": exactly(flow.last),
    }


def _submission(each: Returned) -> dict[str, Any]:
    return {
        "entry": each.number,
        "submission": each.submission,
        "dataset": each.dataset,
        "dataset_id": each.dataset_id,
        "grant": each.grant,
        "credential": each.credential,
        "delegates": _delegates(each.delegates),
        "address": each.address,
        "rows": each.rows,
        "bytes": each.bytes,
        "of_version": each.of_version,
        "received": exactly(each.received),
        "state": each.state,
        "settled": exactly(each.settled),
        "version": each.version,
        "columns": list(each.columns),
        "versions": list(each.versions),
    }


def _spans(spans: Sequence[Span]) -> list[list[str | None]]:
    return [[exactly(span.first), exactly(span.last)] for span in spans]


def _permissions(found: Exposure) -> dict[str, Any]:
    return {
        "grants": [
            {
                "grant": each.grant,
                "dataset": each.dataset,
                "dataset_id": each.dataset_id,
                "columns": list(each.columns),
                "masks": _masks(each.masks),
                "where": each.where,
                "purpose": each.purpose,
                "delivery": each.delivery,
                "pinned": each.pinned,
                "limits": dict(each.limits),
                "made": exactly(each.made),
                "starts": exactly(each.starts),
                "expires": exactly(each.expires),
                "ended": exactly(each.ended),
                "open": _spans(each.open),
                "versions": list(each.versions),
            }
            for each in found.windows
        ],
        "credentials": [
            {
                "credential": each.credential,
                "issued": exactly(each.issued),
                "expires": exactly(each.expires),
                "ended": exactly(each.ended),
                "bound_to_key": each.bound,
                "networks": list(each.networks),
                "issuer": each.issuer,
            }
            for each in found.credentials
        ],
        "frozen": _spans(found.frozen),
    }


def _keys(found: Exposure) -> dict[str, Any]:
    return {
        "data_keys": [
            {
                "place": each.place,
                "dataset": each.dataset,
                "group": each.group,
                "columns": list(each.columns),
                "epoch": each.epoch,
                "process": each.process,
                "unwraps": each.count,
                "first": exactly(each.first),
                "last": exactly(each.last),
                "deliveries": each.deliveries,
            }
            for each in found.keys
        ],
        "chunk_keys": [
            {
                "compartment": each.compartment,
                "dataset": each.dataset,
                "group": each.group,
                "columns": list(each.columns),
                "epoch": each.epoch,
                "count": len(each.ids),
                "chunks": [bytes(chunk).hex() for chunk in each.ids],
            }
            for each in found.chunks
        ],
    }
