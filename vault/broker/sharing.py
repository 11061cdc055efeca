"""The open Delta Sharing protocol, below ``/delta-sharing/``: what a vendor's own tools ask for, over the same access.

Of the protocol there are the listings, a table's version and metadata, and its files as they are now, as Parquet. What
is not there (changes, earlier versions, the ``delta`` response format) is refused in a sentence. A file's address is
leave enough to read it, so only credentials that are presented as bearers get any: with an address, a key that proves
each request would prove nothing.
"""

import base64
import json
import uuid
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from vault import access, wire
from vault.broker.delivering import NOT_KEPT, Reading, Streaming, behind, ranged
from vault.broker.describing import of_route
from vault.broker.lean import lean_route
from vault.broker.metrics import Metrics
from vault.broker.shares import Shares
from vault.errors import InvalidInput, NotGranted, VaultError
from vault.workings.parts import Parts

__all__ = ["Sharing", "add"]

_BASE: Final = wire.SHARING_PATH.rstrip("/")
_SHARES: Final = f"{_BASE}/shares"
_SCHEMAS: Final = _SHARES + "/{share}/schemas"
_TABLE: Final = _SCHEMAS + "/{schema}/tables/{name}"
_VERSION_HEADER: Final = "Delta-Table-Version"
_CAPABILITIES: Final = "delta-sharing-capabilities"
_LINES: Final = "application/x-ndjson; charset=utf-8"
_JSON: Final = "application/json; charset=utf-8"
#: The items of a page where nothing is asked for, and at the most.
_PAGE: Final = 500
_NO_SHARE: Final = "no dataset or column of that name is granted to you"
_LONGEST: Final = 1024

_Name = Annotated[str, Path(max_length=_LONGEST)]
_MaxResults = Annotated[int | None, Query(alias="maxResults", ge=0, le=2**31 - 1)]
_PageToken = Annotated[str | None, Query(alias="pageToken", max_length=_LONGEST)]
_Moment = Annotated[str | None, Query(alias="startingTimestamp", max_length=64)]
_Wanted = Annotated[str, Header(alias=_CAPABILITIES, max_length=_LONGEST)]


class QueryBody(BaseModel):
    """What may be asked of a table's files; what the protocol has beside this is passed over."""

    model_config = ConfigDict(extra="ignore", strict=True)

    predicate_hints: Annotated[list[Annotated[str, Field(max_length=4096)]], Field(max_length=64)] | None = Field(
        None, alias="predicateHints"
    )
    json_hints: Annotated[str, Field(max_length=32_768)] | None = Field(None, alias="jsonPredicateHints")
    limit: Annotated[int, Field(ge=0, le=2**62)] | None = Field(None, alias="limitHint")
    version: Annotated[int, Field(ge=0, le=2**62)] | None = None
    timestamp: Annotated[str, Field(max_length=64)] | None = None
    starting_version: Annotated[int, Field(ge=0, le=2**62)] | None = Field(None, alias="startingVersion")
    ending_version: Annotated[int, Field(ge=0, le=2**62)] | None = Field(None, alias="endingVersion")

    def hints(self) -> access.Hints:
        """What is hinted at."""
        return access.Hints(self.limit, tuple(self.predicate_hints or ()), self.json_hints)


@dataclass(frozen=True, slots=True)
class Sharing:
    """What the routes need: ``arrival`` says who asks, and ``base_of`` the broker's base URL, by a request's scope."""

    parts: Parts
    arrival: Callable[[Request], access.Arrival]
    base_of: Callable[[MutableMapping[str, Any]], str]
    vendors: frozenset[str] | None
    metrics: Metrics
    shares: Shares

    def bearer(self, request: Request) -> access.Arrival:
        """Who asks; raises InvalidInput for a credential that proves each request by a key."""
        found = self.arrival(request)
        request.state.caller = found.caller
        if found.proof is not None:
            found.enter(self.parts)
            raise InvalidInput("Delta Sharing is for credentials that were issued with --bearer, and for tokens")
        return found


def add(app: FastAPI, sharing: Sharing) -> None:
    """Add its routes."""
    _add_listings(app, sharing)
    _add_tables(app, sharing)
    _add_query(app, sharing)
    _add_files(app, sharing)


def _add_listings(app: FastAPI, sharing: Sharing) -> None:
    asking = Depends(sharing.bearer)

    def listed(who: access.Arrival, share: str) -> list[wire.SharedTable]:
        return _in_share(share, access.list_tables(sharing.parts, who.caller))

    @app.get(_SHARES, **of_route("shares"))
    def all_shares(
        who: Annotated[access.Arrival, asking], most: _MaxResults = None, token: _PageToken = None
    ) -> Response:
        """The one share that there is, for whoever has a table in it."""
        found = [{"name": wire.SHARE}] if access.list_tables(sharing.parts, who.caller) else []
        return _items(found, "shares", most, token)

    @app.get(_SHARES + "/{share}", **of_route("share"))
    def one_share(who: Annotated[access.Arrival, asking], share: _Name) -> Response:
        """The share by its name."""
        listed(who, share)
        return JSONResponse({"share": {"name": wire.SHARE}}, media_type=_JSON)

    @app.get(_SCHEMAS, **of_route("schemas"))
    def schemas(
        who: Annotated[access.Arrival, asking], share: _Name, most: _MaxResults = None, token: _PageToken = None
    ) -> Response:
        """Its schemas: the default one, and one for each grant on a dataset that there are several on."""
        found = sorted({table.schema for table in listed(who, share)})
        return _items([{"name": each, "share": wire.SHARE} for each in found], "schemas", most, token)

    @app.get(_SCHEMAS + "/{schema}/tables", **of_route("tables"))
    def tables(
        who: Annotated[access.Arrival, asking],
        share: _Name,
        schema: _Name,
        most: _MaxResults = None,
        token: _PageToken = None,
    ) -> Response:
        """The tables of a schema."""
        mine = [table for table in listed(who, share) if table.schema == schema.lower()]
        if not mine:
            raise NotGranted(_NO_SHARE)
        return _items(_named(mine), f"tables {schema.lower()}", most, token)

    @app.get(_SHARES + "/{share}/all-tables", **of_route("all_tables"))
    def all_tables(
        who: Annotated[access.Arrival, asking], share: _Name, most: _MaxResults = None, token: _PageToken = None
    ) -> Response:
        """The tables of all schemas."""
        return _items(_named(listed(who, share)), "all tables", most, token)


def _add_tables(app: FastAPI, sharing: Sharing) -> None:
    asking = Depends(sharing.bearer)

    def shown(who: access.Arrival, share: str, schema: str, name: str) -> access.ShownTable:
        return access.show_table(sharing.parts, who, wire.SharedTable.named(share, schema, name))

    @app.get(_TABLE + "/version", **of_route("version"))
    def version(
        who: Annotated[access.Arrival, asking], share: _Name, schema: _Name, name: _Name, starting: _Moment = None
    ) -> Response:
        """A table's version: there is one at a time, the newest or the one that its grant is pinned to."""
        since = _moment(starting, "startingTimestamp")
        found = shown(who, share, schema, name)
        if since is not None and since > found.created:
            raise InvalidInput("startingTimestamp: there is no version at that time or later")
        return Response(b"", media_type=_LINES, headers=_headers(found))

    @app.get(_TABLE + "/metadata", **of_route("metadata"))
    def metadata(
        who: Annotated[access.Arrival, asking], share: _Name, schema: _Name, name: _Name, wanted: _Wanted = ""
    ) -> Response:
        """What a table looks like, as lines of JSON."""
        _refuse_format(wanted)
        found = shown(who, share, schema, name)
        return Response(_first_lines(found, name), media_type=_LINES, headers=_headers(found))

    @app.get(_TABLE + "/changes", **of_route("changes"))
    def changes(who: Annotated[access.Arrival, asking], share: _Name, schema: _Name, name: _Name) -> Response:
        """What changed between versions, which is not told."""
        shown(who, share, schema, name)
        raise InvalidInput("a table's changes are not shared; ask for its files")


def _add_query(app: FastAPI, sharing: Sharing) -> None:
    parts, metrics = sharing.parts, sharing.metrics

    def query(
        request: Request,
        share: _Name,
        schema: _Name,
        name: _Name,
        body: QueryBody,
        who: Annotated[access.Arrival, Depends(sharing.bearer)],
    ) -> Response:
        """A table's files, as lines of JSON; an answer that breaks off is not whole."""
        _refuse_format(request.headers.get(_CAPABILITIES, ""))
        if body.starting_version is not None or body.ending_version is not None:
            raise InvalidInput("startingVersion: a table's changes are not shared; ask for its files")
        at = _moment(body.timestamp, "timestamp")
        table = wire.SharedTable.named(share, schema, name)
        if body.version is not None or at is not None:
            _refuse_earlier(access.show_table(parts, who, table), body.version, at)
        found = access.shared_files(parts, who, table, body.hints(), gone=getattr(request.state, "gone", _stays))
        # The first file is built before the answer begins: what fails at once fails with a status.
        first = next(found.files, None)
        files = behind(first, found.files)
        lines = _lines(found.table, name, sharing.base_of(request.scope), files, metrics.refused)
        reading = Reading(metrics.streaming(lines), found.check, sharing.shares, found.vendor)
        return Streaming(reading, headers=_headers(found.table), media_type=_LINES)

    app.router.add_api_route(
        _TABLE + "/query",
        query,
        methods=["POST"],
        route_class_override=lean_route(sharing.bearer, lambda _who: None, QueryBody, sharing.shares),
        **of_route("query"),
    )


def _add_files(app: FastAPI, sharing: Sharing) -> None:
    @app.head(wire.FILES_PATH + "{ticket}", **of_route("head_file"))
    @app.get(wire.FILES_PATH + "{ticket}", **of_route("file"))
    def shared_file(
        ticket: Annotated[str, Path(max_length=4096)],
        request: Request,
        range_: Annotated[str, Header(alias="range")] = "",
    ) -> Response:
        """A shared file, whole or a range of it; the address is leave enough."""
        address = request.client.host if request.client else "unknown"
        gone = getattr(request.state, "gone", _stays)
        found = access.shared_file(sharing.parts, ticket, address, vendors=sharing.vendors, gone=gone)
        head, path = request.method == "HEAD", request.scope["path"]
        return ranged(found, range_, sharing.shares, head=head, count=sharing.metrics.streaming, path=path)


def _items(found: Sequence[dict[str, str]], place: str, most: int | None, token: str | None) -> Response:
    page, after = _page(found, place, most, token)
    return JSONResponse({"items": page, **({"nextPageToken": after} if after else {})}, media_type=_JSON)


def _stays() -> bool:
    """Whether a client is gone, of one that nothing is known of."""
    return False


def _in_share(share: str, found: list[wire.SharedTable]) -> list[wire.SharedTable]:
    """The tables, where the share is theirs; who has none has no share."""
    if share.lower() != wire.SHARE or not found:
        raise NotGranted(_NO_SHARE)
    return found


def _named(found: list[wire.SharedTable]) -> list[dict[str, str]]:
    return [{"name": each.name, "schema": each.schema, "share": wire.SHARE} for each in found]


def _page(
    found: Sequence[dict[str, str]], place: str, most: int | None, token: str | None
) -> tuple[list[dict[str, str]], str | None]:
    """The items of one page in their order, and the token of the next one.

    A token names the listing and the last item before it, which whoever holds it was told.
    """
    after = _after(token, place) if token else None
    left = [each for each in found if after is None or _key(each) > after]
    page = left[: min(_PAGE, most if most is not None else _PAGE)]
    if len(page) == len(left):
        return page, None
    last = _key(page[-1]) if page else after
    return page, base64.urlsafe_b64encode(json.dumps([place, last]).encode()).decode()


def _key(item: dict[str, str]) -> list[str]:
    return [item.get("schema", ""), item["name"]]


def _after(token: str, place: str) -> list[str] | None:
    try:
        found = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        match found:
            case [str(named), [str(), str()] | None as last] if named == place:
                return last
    except (ValueError, RecursionError):
        pass
    raise InvalidInput("pageToken: it is not one of this listing")


def _moment(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(f"{option}: give a time such as 2026-12-01T08:00:00Z") from None


def _refuse_format(wanted: str) -> None:
    """Raises InvalidInput where a client can only take what is not here; a form that says nothing of it will do."""
    for part in wanted.lower().replace(" ", "").split(";"):
        name, _, values = part.partition("=")
        if name == "responseformat" and "parquet" not in values.split(","):
            raise InvalidInput(f"{_CAPABILITIES}: files come with responseformat=parquet only")


def _refuse_earlier(found: access.ShownTable, version: int | None, at: datetime | None) -> None:
    if (version is not None and version != found.version) or (at is not None and at < found.created):
        raise InvalidInput(f"version: only the present one is shared, which is {found.version}")


def _headers(found: access.ShownTable) -> dict[str, str]:
    return {_VERSION_HEADER: str(found.version), _CAPABILITIES: "responseformat=parquet", **NOT_KEPT}


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def _first_lines(found: access.ShownTable, name: str) -> bytes:
    described = {
        "id": str(uuid.UUID(found.id)),
        "name": name.lower(),
        "format": {"provider": "parquet"},
        "schemaString": found.shape.text,
        "partitionColumns": [],
        "configuration": {},
        "version": found.version,
    }
    return _line({"protocol": {"minReaderVersion": 1}}) + _line({"metaData": described})


def _lines(
    table: access.ShownTable, name: str, base: str, files: Iterator[access.SharedFile], refused: Callable[[str], None]
) -> Iterator[bytes]:
    """The answer, line by line; what fails on the way is counted, and breaks it off."""
    yield _first_lines(table, name)
    try:
        for file in files:
            yield _line(
                {
                    "file": {
                        "url": base + file.path,
                        "id": file.id,
                        "partitionValues": {},
                        "size": file.size,
                        "stats": json.dumps({"numRecords": file.rows}),
                        "version": table.version,
                        "expirationTimestamp": int(file.until.timestamp() * 1000),
                    }
                }
            )
    except VaultError as error:
        refused(wire.kind_of(wire.problem(error)[1]))
        raise
    finally:
        files.close()  # type: ignore[attr-defined]
