"""An exposure: what a vendor was served, what it could have been served, and who else is concerned by it.

Frozen values. Times are microseconds since 1970 (UTC); rows are those of a version in one of its states, at the places
that they had when they were read: an erasure moves the rows behind those that it takes, and brings the version into its
next state.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vault.exposure.gathering import Refusal, Who
from vault.exposure.rows import Layout, RowSet

__all__ = [
    "Amounts",
    "Cells",
    "Chunks",
    "Delivered",
    "Event",
    "Exposure",
    "Flow",
    "Held",
    "Line",
    "Mask",
    "Part",
    "Picture",
    "Refused",
    "Returned",
    "Shared",
    "Span",
    "Unwrapped",
    "Window",
]

#: What a mask is on, and its written form.
Mask = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Span:
    """From a time on and before another; None for an end that is not known."""

    first: int
    last: int | None


@dataclass(frozen=True, slots=True)
class Amounts:
    """Deliveries and what they came to, each row counted as often as it was served.

    The first three are of reads that ended whole; the rest is of all others, and the most that it can have been.
    ``unsized`` of those have no number of bytes: nothing in the log says how far they came.
    """

    reads: int = 0
    rows: int = 0
    bytes: int = 0
    bound_reads: int = 0
    bound_rows: int = 0
    bound_bytes: int = 0
    unsized: int = 0


@dataclass(frozen=True, slots=True)
class Cells:
    """Different cells: rows of columns, each once. A struct has its fields' cells, which count with it."""

    exact: int = 0
    at_most: int = 0
    not_read: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One column of a version, or a field of one, and its rows.

    ``exact`` were served; ``bound`` may have been beside those, and nothing else can have been; ``could`` could have
    been read under the vendor's grants beside both, and were not. ``up_to`` says that row filters make that less.
    ``state`` counts how often the version's rows had come to lie otherwise: by erasures or, where it is ``contested``,
    because the log says two things of it.
    """

    dataset: str
    dataset_id: str
    version: int
    state: int
    contested: bool
    column: str
    column_id: str
    masks: tuple[Mask, ...]
    layout: Layout
    exact: RowSet
    bound: RowSet
    could: RowSet
    up_to: bool
    reads: int
    bound_reads: int
    first: int | None
    last: int | None


@dataclass(frozen=True, slots=True)
class Flow:
    """Deliveries of the same columns to the same hands: credential, delegates, address, grant."""

    dataset: str
    dataset_id: str
    version: int
    state: int
    columns: tuple[str, ...]
    masks: tuple[Mask, ...]
    who: Who
    amounts: Amounts
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """One delivery: the number of the entry that it began with, and how it ended. ``flow`` is its place among flows."""

    number: int
    begun: int
    ended: int | None
    how: str
    outcome: str
    rows: int
    bytes: int | None
    flow: int


@dataclass(frozen=True, slots=True)
class Window:
    """A grant, and when the vendor could read under it: it counted, a credential did, and nothing was frozen.

    ``versions`` are those that it opened then.
    """

    grant: str
    dataset: str
    dataset_id: str
    columns: tuple[str, ...]
    masks: tuple[Mask, ...]
    where: str | None
    purpose: str | None
    delivery: str
    pinned: int | None
    limits: Mapping[str, int]
    made: int
    starts: int
    expires: int | None
    ended: int | None
    open: tuple[Span, ...]
    versions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """A credential's life, without anything of its secret."""

    credential: str
    issued: int
    expires: int | None
    ended: int | None
    bound: bool
    networks: tuple[str, ...]
    issuer: str | None


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """A data key of the vendor's: which process had it unwrapped, how often, and how many deliveries were under it.

    ``process`` is None where the log has no unwrapping of it.
    """

    place: str
    dataset: str | None
    group: str
    columns: tuple[str, ...]
    epoch: int
    process: str | None
    count: int
    first: int | None
    last: int | None
    deliveries: int


@dataclass(frozen=True, slots=True, eq=False)
class Chunks:
    """The chunks of one column group whose keys were handed out in leases: their ids, 16 bytes each, once."""

    compartment: str
    dataset: str | None
    group: str
    columns: tuple[str, ...]
    epoch: int
    ids: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Shared:
    """Another vendor that has rows and columns that this one was served, as far as compartments and assignments tell.

    ``rows`` of those were served exactly; with ``at_most`` more, those that may have been. ``until`` is None where
    it still has them.
    """

    vendor: str
    vendor_id: str
    dataset: str
    version: int
    state: int
    columns: tuple[str, ...]
    rows: int
    at_most: int
    since: int
    until: int | None


@dataclass(frozen=True, slots=True)
class Refused:
    """Requests that were refused alike: how often, first and last."""

    request: Refusal
    count: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Returned:
    """What the vendor sent back for rows of a version, and what became of it: ``waiting``, ``accepted``, ``rejected``.

    ``number`` is that of the entry that says that it was received. Where none does, because it is not in the log, what
    that would have said is None. ``version`` is the one that it became; ``versions`` are all that have its columns,
    whatever has expired of them since.
    """

    number: int
    submission: str
    dataset: str
    dataset_id: str
    grant: str
    credential: str | None
    delegates: tuple[tuple[str, str], ...]
    address: str | None
    rows: int | None
    bytes: int | None
    of_version: int | None
    received: int | None
    state: str
    settled: int | None
    version: int | None
    columns: tuple[str, ...]
    versions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """An act that concerned the vendor: the number of its entry, and what it says for people."""

    number: int
    time: int
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class Line:
    """One column in the picture: rows served in each stretch of time, exactly or at the most, and when it was open."""

    dataset: str
    column: str
    exact: tuple[int, ...]
    bound: tuple[int, ...]
    open: tuple[Span, ...]
    cells: int
    at_most: int


@dataclass(frozen=True, slots=True)
class Picture:
    """Columns by time: ``first`` to ``last`` cut into stretches of one length; what was frozen when."""

    first: int
    last: int
    lines: tuple[Line, ...]
    frozen: tuple[Span, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Exposure:
    """All that the log says of a vendor, between two times where they are given.

    ``entries`` is the number of the last entry that was read and ``through`` its time. ``counted`` is by dataset id;
    ``left_out`` of the deliveries are not listed one by one. ``odd`` are numbers of entries about the vendor that are
    not of a form that dsvault writes, and ``doubts`` says in words what does not fit; ``compared`` says that ends were
    held against what the lab signed.
    """

    vendor: str
    vendor_id: str
    since: int | None
    until: int | None
    entries: int
    through: int
    total: Amounts
    datasets: Mapping[str, Amounts]
    parts: tuple[Part, ...]
    counted: Mapping[str, Cells]
    flows: tuple[Flow, ...]
    deliveries: tuple[Delivered, ...]
    left_out: int
    windows: tuple[Window, ...]
    credentials: tuple[Held, ...]
    frozen: tuple[Span, ...]
    keys: tuple[Unwrapped, ...]
    chunks: tuple[Chunks, ...]
    shared: tuple[Shared, ...]
    refused: tuple[Refused, ...]
    returned: tuple[Returned, ...]
    events: tuple[Event, ...]
    picture: Picture
    odd: tuple[int, ...]
    doubts: tuple[str, ...]
    compared: bool

    @property
    def cells(self) -> int:
        """How many different cells were served exactly."""
        return sum(each.exact for each in self.counted.values())

    @property
    def cells_at_most(self) -> int:
        """How many beside those may have been."""
        return sum(each.at_most for each in self.counted.values())

    @property
    def cells_not_read(self) -> int:
        """How many beside both could have been read."""
        return sum(each.not_read for each in self.counted.values())
