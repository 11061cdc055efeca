"""The broker's routes. No key, no chunk and no SQL passes through here."""

import base64
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Header, Path, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from vault import access, wire
from vault._version import __version__
from vault.broker import operating, problems, receiving, sharing
from vault.broker.bounds import Bounds
from vault.broker.closing import Closing
from vault.broker.delivering import NOT_KEPT, Reading, Streaming, behind, ranged
from vault.broker.describing import describe, of_route
from vault.broker.lean import lean_route
from vault.broker.metrics import Metrics
from vault.broker.observing import Observing
from vault.broker.portions import Portions
from vault.broker.shares import Shares
from vault.broker.stream import ipc_stream
from vault.configuration import DEFAULT_ENDPOINT
from vault.errors import InvalidInput, Unauthenticated
from vault.federation import Issuers
from vault.policy import Request as ReadRequest
from vault.submission import Quarantine
from vault.workings.parts import Parts

__all__ = ["create_app"]

#: What is put together before it is sent; what is larger is sent as a stream, and watched as one.
_WHOLE_BYTES = 1 << 20
#: Who reads the counters where nothing else is said.
LOOPBACK = ("127.0.0.0/8", "::1/128")


class _Body(BaseModel):
    """What any delivery is asked for by."""

    model_config = ConfigDict(extra="forbid", strict=True)

    grant: Annotated[str, Field(max_length=64)] | None = None
    columns: Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=10_000)] | None = None
    cursor: Annotated[str, Field(max_length=256)] | None = None

    def request(self, dataset: str, **more: Any) -> ReadRequest:
        """The request for a dataset."""
        columns = tuple(self.columns) if self.columns is not None else None
        return ReadRequest(dataset, self.grant, columns, **more)


class PartBody(BaseModel):
    """One of so many parts of a read."""

    model_config = ConfigDict(extra="forbid", strict=True)

    index: Annotated[int, Field(ge=0, lt=access.MOST_PARTS)]
    of: Annotated[int, Field(ge=1, le=access.MOST_PARTS)]


class ReadBody(_Body):
    """What a vendor may ask for within a grant."""

    part: PartBody | None = None
    version: Annotated[int, Field(ge=1, lt=2**31)] | None = None

    where: Annotated[str, Field(max_length=4096)] | None = None
    limit: Annotated[int, Field(ge=0, le=2**62)] | None = None
    compression: Literal["none", "lz4", "zstd"] = "none"


class LeaseBody(_Body):
    """What a vendor may ask for of a lease."""

    page_bytes: Annotated[int, Field(ge=1, le=access.MOST_BYTES)] = access.MOST_BYTES
    direct: bool = True


@dataclass(frozen=True, slots=True)
class _Broker:
    parts: Parts
    vendors: frozenset[str] | None
    endpoints: tuple[str, ...]
    issuers: Issuers = field(default_factory=Issuers)

    def arrival(self, request: Request) -> access.Arrival:
        """Who asks, by all but whether the request's proof was used before."""
        values, proofs = request.headers.getlist("authorization"), request.headers.getlist("dpop")
        chains = request.headers.getlist(wire.DELEGATION_HEADER)
        if len(values) != 1 or len(proofs) > 1 or len(chains) > 1:
            raise Unauthenticated("the credential is not valid")
        address = request.client.host if request.client else "unknown"
        foreign = wire.foreign_token(values[0])
        if foreign is not None:
            if proofs or chains:
                raise Unauthenticated("the credential is not valid")
            return access.Arrival(
                access.authenticate_federated(self.parts, self.issuers, foreign, address, vendors=self.vendors)
            )
        token = wire.Token.from_header(values[0])
        links = tuple(chains[0].split(",")) if chains else ()
        sent = access.Sent(request.method, self._addresses(request), proofs[0] if proofs else None, links)
        return access.arrive(self.parts, token, address, sent=sent, vendors=self.vendors)

    def base(self, scope: MutableMapping[str, Any]) -> str:
        """The base URL that addresses are handed out with: never by the request's own word.

        The first that the broker was told of; where it was told of none, that of the socket that was asked.
        """
        told = self.endpoints[0].rstrip("/") if self.endpoints else DEFAULT_ENDPOINT
        return next(iter(_own(scope)), told) if told == DEFAULT_ENDPOINT else told

    def _addresses(self, request: Request) -> tuple[str, ...]:
        """Where the request may have been sent to: never by its own word, which its Host header would be."""
        path = request.scope["raw_path"].decode("ascii", "replace")
        return tuple(base.rstrip("/") + path for base in (*self.endpoints, *_own(request.scope)))


def _own(scope: MutableMapping[str, Any]) -> tuple[str, ...]:
    """The addresses of the socket that a request came in at."""
    server = scope.get("server")
    if not server or server[1] is None:
        return ()
    host, port = server
    names = (host, "localhost") if host in {"127.0.0.1", "::1"} else (host,)
    return tuple(f"{scope['scheme']}://{f'[{name}]' if ':' in name else name}:{port}" for name in names)


def create_app(
    parts: Parts,
    vendors: frozenset[str] | None = None,
    endpoints: tuple[str, ...] = (),
    metrics_to: tuple[str, ...] = LOOPBACK,
    quarantine: Quarantine | None = None,
) -> FastAPI:
    """The ASGI application over a vault's parts; ``vendors`` are the ids that it serves (None: all).

    ``endpoints`` are the base URLs that clients reach it by, beside the addresses of its own socket. ``metrics_to`` are
    the networks that may read ``/metrics``; ``quarantine`` bounds what vendors may send.
    """
    bounds = quarantine or Quarantine()
    broker = _Broker(parts, vendors, endpoints)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        with access.watch(parts), broker.issuers.kept(lambda: access.providers(parts, vendors)):
            yield
        await run_in_threadpool(access.settle, parts)

    app = FastAPI(
        title="dsvault broker",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        # A redirection would lead to wherever the request's Host header says.
        redirect_slashes=False,
    )
    problems.install(app)
    app.add_middleware(Bounds, most_submitted=bounds.most_bytes)

    def caller(request: Request) -> access.Caller:
        found = request.state.caller = broker.arrival(request).enter(parts)
        return found

    def turn_away(who: access.Arrival) -> None:
        """A request that is not valid uses its proof up as well."""
        who.enter(parts)

    metrics = Metrics(lambda: access.key_counts(parts), lambda: access.spool_counts(parts))
    app.state.metrics = metrics
    closing = app.state.closing = Closing()
    shares = app.state.shares = Shares()
    app.add_middleware(Observing, metrics=metrics)
    app.add_middleware(Portions)

    operating.add(app, parts, metrics, metrics_to)

    @app.get("/v1/datasets", **of_route("datasets"))
    def datasets(who: Annotated[access.Caller, Depends(caller)]) -> dict[str, Any]:
        """What the caller's grants offer."""
        offered = [_offered(offering).document() for offering in access.offerings(parts, who)]
        return {
            "format": list(wire.WIRE_VERSION),
            "submissions": {"most_bytes": bounds.most_bytes},
            "grants": offered,
        }

    def read(
        request: Request, name: str, body: ReadBody, who: Annotated[access.Arrival, Depends(broker.arrival)]
    ) -> Response:
        """A slice as an Arrow IPC stream."""
        part = (body.part.index, body.part.of) if body.part is not None else None
        asked = body.request(name, limit=body.limit, part=part, version=body.version)
        cursor, gone = _cursor(body.cursor, turn_away, who), getattr(request.state, "gone", _stays)
        delivery = access.open_delivery(parts, who, asked, body.where, cursor, gone=gone)
        metrics.decided(time.perf_counter() - request.state.began)
        return _sent(metrics, closing, shares, delivery, body.compression)

    def lease(
        _request: Request, name: str, body: LeaseBody, who: Annotated[access.Arrival, Depends(broker.arrival)]
    ) -> Response:
        """A page of a lease: chunk keys, and where the ciphertext is."""
        asked, cursor = body.request(name, lease=True), _cursor(body.cursor, turn_away, who)
        page = access.lease_page(parts, who, asked, cursor, most_bytes=body.page_bytes, direct=body.direct)
        return Response(page.encode(), media_type="application/json", headers=NOT_KEPT)

    deliveries: tuple[tuple[str, Callable[..., Response], type[_Body]], ...] = (
        ("read", read, ReadBody),
        ("lease", lease, LeaseBody),
    )
    for delivery_name, endpoint, model in deliveries:
        app.router.add_api_route(
            f"/v1/datasets/{{name}}/{delivery_name}",
            endpoint,
            methods=["POST"],
            route_class_override=lean_route(broker.arrival, turn_away, model, shares),
            **of_route(delivery_name),
        )

    receiving.add(app, parts, broker.arrival, bounds)

    @app.head("/v1/objects/{ticket}", **of_route("head_object"))
    @app.get("/v1/objects/{ticket}", **of_route("object"))
    def leased_object(
        ticket: Annotated[str, Path(max_length=4096)],
        request: Request,
        range_: Annotated[str, Header(alias="range")] = "",
    ) -> Response:
        """The ciphertext of a leased chunk, whole or a range of it; the address is leave enough."""
        found = access.leased_object(parts, ticket, vendors=vendors)
        return ranged(found, range_, shares, head=request.method == "HEAD", count=metrics.streaming)

    sharing.add(app, sharing.Sharing(parts, broker.arrival, broker.base, vendors, metrics, shares))
    describe(app)
    return app


def _stays() -> bool:
    """Whether a client is gone, of one that nothing is known of."""
    return False


def _offered(offering: access.Offering) -> wire.OfferedGrant:
    grant = offering.grant
    return wire.OfferedGrant(
        grant.dataset_name,
        grant.id,
        offering.version,
        offering.schema,
        wire.moment(grant.expires),
        grant.purpose,
        dict(offering.masks),
        dict(grant.limits),
        "lease" if offering.leasable else "stream",
        offering.shards,
        offering.key,
    )


def _sent(metrics: Metrics, closing: Closing, shares: Shares, delivery: access.Delivery, compression: str) -> Response:
    # The first batch is made before the answer begins, so that what fails at once fails with a status.
    first = next(delivery.batches, None)
    batches = closing.until(behind(first, delivery.batches))
    stream = ipc_stream(delivery.schema, batches, delivery.cursor, compression, metrics.refused)
    pieces = metrics.streaming(stream)
    headers = {wire.ROWS_HEADER: str(delivery.total)} if delivery.total is not None else None
    if delivery.short and (first is None or first.nbytes <= _WHOLE_BYTES):
        # All of it is here: it is not worth handing piece by piece from thread to thread.
        return Response(b"".join(pieces), headers=headers, media_type=wire.ARROW_TYPE)
    reading = Reading(pieces, delivery.check, shares, delivery.permit.vendor)
    return Streaming(reading, headers=headers, media_type=wire.ARROW_TYPE)


def _cursor(text: str | None, turn_away: Callable[[access.Arrival], None], who: access.Arrival) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) if text is not None else None
    except ValueError as error:
        turn_away(who)
        raise InvalidInput("cursor: it is not one") from error
