"""A broker as a vendor sees it: its grants, and datasets to read."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import pyarrow as pa
import urllib3

from vault.client.http import PATIENCE, Connection
from vault.client.pieces import Reading
from vault.client.streams import Stream
from vault.client.trust import Trust
from vault.errors import Conflict, InvalidInput, NotGranted, Unavailable
from vault.fields import path_text
from vault.proof import ProofKey
from vault.readers import Extent, Readers, checked_part
from vault.wire import COMPRESSIONS, LeasePage, OfferedGrant, Profile

if TYPE_CHECKING:
    from vault.client.submitting import Submitted

__all__ = ["Client", "Dataset", "address_of"]

_NOT_GRANTED: Final = "no dataset or column of that name is granted to you"
#: What the broker takes, so that the sentence says which option is at fault and what it takes.
_LONGEST_WHERE: Final = 4096
_MOST_ROWS: Final = 2**62


class Client:
    """A connection to a broker under one credential. Safe for use from several threads."""

    def __init__(
        self,
        profile: Profile,
        key: ProofKey | None = None,
        *,
        compression: str | None = None,
        patience: timedelta = PATIENCE,
        token: Callable[[], str] | None = None,
        trust: Trust | None = None,
        reopening: "tuple[Callable[..., Client], dict[str, Any]] | None" = None,
    ) -> None:
        if compression is not None and compression not in COMPRESSIONS:
            raise InvalidInput(f"compression: use one of {', '.join(COMPRESSIONS)}")
        self.profile = profile
        self.connection = Connection(profile, key, token, trust)
        self.patience = patience
        self._reopening = reopening
        self._compression = compression or ("none" if self.connection.near else "zstd")

    def datasets(self) -> list[str]:
        """The names of the datasets that are granted, sorted."""
        return sorted({grant.dataset for grant in self.grants()})

    def grants(self) -> list[OfferedGrant]:
        """Every live grant with what it offers."""
        entries = self.connection.answer("GET", "/v1/datasets").get("grants")
        if not isinstance(entries, list):
            raise Unavailable("the broker's answer is not one that this client understands")
        return [OfferedGrant.parse(entry) for entry in entries]

    def dataset(self, name: str) -> "Dataset":
        """A granted dataset; raises NotGranted when nothing of that name is granted."""
        dataset = Dataset(self, name)
        if not dataset.grants:
            raise NotGranted(_NOT_GRANTED)
        return dataset

    def open(self, name: str) -> "Dataset":
        """A dataset by name without asking the broker yet; a read of one that is not granted is refused."""
        return Dataset(self, name)

    def read(self, name: str, body: dict[str, Any], cursor: str | None = None) -> Reading:
        """Begin a read as a stream; raises what the broker refuses it with."""
        path = address_of(name, "read")
        asked = {**body, "compression": self._compression}

        def send(cursor: str | None) -> urllib3.BaseHTTPResponse:
            more = {"cursor": cursor} if cursor is not None else {}
            return self.connection.send("POST", path, json.dumps(asked | more).encode())

        return Stream(send, self.patience, cursor).reading()

    def lease(self, name: str, body: dict[str, Any], cursor: str | None = None, done: int = 0) -> Reading:
        """Begin a read of leased chunks, which are decrypted here; raises what the broker refuses it with."""
        from vault.client.leases import Lease  # with what decrypts, which a stream does without

        path = address_of(name, "lease")

        def ask(more: dict[str, Any]) -> LeasePage:
            return LeasePage.parse(self.connection.answer("POST", path, json.dumps(body | more).encode()))

        return Lease(ask, self.connection.get, self.patience).reading(cursor, done)

    def __reduce__(self) -> tuple[Any, ...]:
        """How another process has the same: it opens the profile's file anew, so that no secret is in what is sent."""
        if self._reopening is None:
            raise InvalidInput("a client that was not opened from a profile's file cannot be sent to another process")
        opens, options = self._reopening
        return partial(opens, **options), ()

    def __repr__(self) -> str:
        return f"Client({self.profile.vendor} at {self.connection.endpoint})"


@dataclass(frozen=True)
class Dataset(Readers):
    """A granted dataset. Works wherever Arrow's C stream interface does (`__arrow_c_stream__`)."""

    client: Client
    name: str

    @cached_property
    def grants(self) -> list[OfferedGrant]:
        """The grants on this dataset."""
        return [grant for grant in self.client.grants() if grant.dataset == self.name]

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of what is granted; raises Conflict when several grants offer different ones."""
        schemas = [grant.schema for grant in self.grants]
        if any(not schema.equals(schemas[0]) for schema in schemas):
            names = ", ".join(grant.grant for grant in self.grants)
            raise Conflict(f"several grants offer different columns; see .grants and name one of: {names}")
        return schemas[0]

    def scan(
        self,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        limit: int | None = None,
        grant: str | None = None,
        delivery: str | None = None,
        *,
        part: tuple[int, int] | None = None,
        version: int | None = None,
    ) -> pa.RecordBatchReader:
        """Read a slice: ``columns`` in that order, the rows that ``where`` keeps, at most ``limit``.

        Of a nested column a path names one field, such as ``meta.source``: what comes is the column with just that.
        All rows of a grant that allows it are leased: the ciphertext is fetched and decrypted here, in parallel.
        ``delivery="stream"`` lets the broker send them instead, as it does with any other slice.

        ``part=(i, n)`` is the i-th of n parts, which have no row in common and together all of a version; with
        ``version`` it is refused once that is not the one that is read any more. Parts are streams.

        Raises NotGranted, Frozen, Conflict, InvalidInput or Unavailable; while reading also Unavailable for a
        stream that was cut off.
        """
        return self.reading(columns, where, limit, grant, delivery, part=part, version=version).reader()

    def reading(
        self,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        limit: int | None = None,
        grant: str | None = None,
        delivery: str | None = None,
        *,
        part: tuple[int, int] | None = None,
        version: int | None = None,
        place: str | None = None,
        done: int = 0,
    ) -> Reading:
        """Begin a read as `scan` does, piece by piece.

        With the ``place`` of a piece of an earlier read of the same, it goes on behind that piece, up to which ``done``
        rows had come. Raises InvalidInput, of the cursor, where what is read is not what it was.
        """
        _check(columns, where, limit)
        body: dict[str, Any] = {"columns": list(columns) if columns is not None else None}
        body |= {"where": where, "limit": limit, "grant": grant}
        asked = {key: value for key, value in body.items() if value is not None}
        if delivery not in {None, "stream", "lease"}:
            raise InvalidInput("delivery: use stream or lease")
        whole = where is None and limit is None and part is None and version is None
        if delivery == "lease" and not whole:
            raise InvalidInput("delivery: a lease is of all rows; read a predicate, a limit or a part as a stream")
        if part is not None:
            asked["part"] = dict(zip(("index", "of"), checked_part(part), strict=True))
        if version is not None:
            asked["version"] = version
        if place is not None:
            way, _, cursor = place.partition(":")
        else:
            leased = delivery == "lease" or (delivery is None and whole and self._leased(grant, columns))
            way, cursor = "lease" if leased else "stream", None
        begin = self.client.read if way == "stream" else partial(self.client.lease, done=done)
        begun = _begun(lambda: begin(self.name, asked, cursor), asked)
        placed = (
            replace(piece, place=f"{way}:{piece.place}") if piece.place is not None else piece for piece in begun.pieces
        )
        return replace(begun, pieces=placed)

    def extent(self, grant: str | None = None) -> Extent:
        """The version that would be read now, and its shards, as the broker says at this moment.

        Raises NotGranted, and Conflict where several grants are of different versions or shards.
        """
        offers = [each for each in self.client.grants() if each.dataset == self.name and grant in {None, each.grant}]
        extents = {Extent(each.version, each.shards) for each in offers}
        if not extents:
            raise NotGranted(_NOT_GRANTED)
        if len(extents) > 1:
            names = ", ".join(each.grant for each in offers)
            raise Conflict(f"several grants offer different rows; name one of them: {names}")
        return extents.pop()

    def unsearchable(self, grant: str | None = None, **_options: Any) -> frozenset[str]:
        """The columns that have a mask on them, or on a field: a broker takes no condition about what it hides."""
        offers = [each for each in self.grants if grant in {None, each.grant}]
        return frozenset(name for each in offers for name in each.schema.names if _is_masked(name, each.masks))

    def __reduce__(self) -> tuple[Any, ...]:
        """The client and the name: what was heard of grants is asked for anew."""
        return Dataset, (self.client, self.name)

    def _leased(self, grant: str | None, columns: Sequence[str] | None) -> bool:
        """Whether the one grant that a read would be under is delivered as a lease, and of whole columns."""
        fitting = [offered for offered in self.grants if grant in {None, offered.grant}]
        if len(fitting) != 1 or fitting[0].delivery != "lease":
            return False
        return columns is None or set(columns) <= set(fitting[0].schema.names)

    def submit(self, table: Any, grant: str | None = None, *, row_key: str | None = None) -> "Submitted":
        """Send columns back for rows of the slice, such as labels, sealed to the lab; see `vault.client.submitting`.

        ``table`` is an Arrow table or reader, or anything with ``__arrow_c_stream__``; the column that identifies rows
        says which row each of its rows is about. Raises InvalidInput naming the row or column at fault, and what the
        broker refuses it with.
        """
        from vault.client.submitting import submit  # with what encrypts, which reads do without

        return submit(self, table, grant, row_key)


def _is_masked(name: str, masks: Mapping[str, str]) -> bool:
    """Whether a column is among these paths, or a field of it: as they are shown, with quotes where one needs them."""
    return any(path == name or path.startswith(f"{path_text((name,))}.") for path in masks)


def _begun(begin: Callable[[], Reading], asked: dict[str, Any]) -> Reading:
    try:
        return begin()
    except InvalidInput as error:
        # What an older broker does not know is not valid to it.
        if str(error).startswith("the request is not valid:") and not asked.keys().isdisjoint({"part", "version"}):
            raise InvalidInput("part, version: this broker is of an earlier release, and reads no parts") from error
        raise


def address_of(name: str, verb: str) -> str:
    """Where a dataset is read; raises NotGranted for what is no name, and would be another address."""
    if name in {"", ".", ".."} or "/" in name:
        raise NotGranted(_NOT_GRANTED)
    return f"/v1/datasets/{quote(name, safe='')}/{verb}"


def _check(columns: Sequence[str] | None, where: str | None, limit: int | None) -> None:
    if columns is not None and (not columns or len(set(columns)) != len(columns)):
        raise InvalidInput("columns: name at least one column, and none twice")
    if where is not None and len(where) > _LONGEST_WHERE:
        raise InvalidInput(f"where: the condition is longer than {_LONGEST_WHERE:,} characters")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit <= _MOST_ROWS):
        raise InvalidInput("limit: give a whole number of rows, 0 to 2**62")
