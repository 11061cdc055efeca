"""Exposure: what a vendor was served and could have been, from the log's entries alone; no I/O."""

from vault.exposure.evidence import Evidence, Step, Versions
from vault.exposure.exposure import (
    Amounts,
    Cells,
    Chunks,
    Delivered,
    Event,
    Exposure,
    Flow,
    Held,
    Line,
    Part,
    Picture,
    Refused,
    Returned,
    Shared,
    Span,
    Unwrapped,
    Window,
)
from vault.exposure.gathering import Gathering
from vault.exposure.rows import Layout, RowSet
from vault.exposure.settling import exposure, settle

__all__ = [
    "Amounts",
    "Cells",
    "Chunks",
    "Delivered",
    "Event",
    "Evidence",
    "Exposure",
    "Flow",
    "Gathering",
    "Held",
    "Layout",
    "Line",
    "Part",
    "Picture",
    "Refused",
    "Returned",
    "RowSet",
    "Shared",
    "Span",
    "Step",
    "Unwrapped",
    "Versions",
    "Window",
    "exposure",
    "settle",
]
