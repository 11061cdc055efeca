"""The pages for who operates a broker: whether it lives, whether it could serve, and what it counted."""

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from vault import access
from vault.broker import problems
from vault.broker.describing import of_route
from vault.broker.metrics import CONTENT_TYPE, Metrics
from vault.broker.readiness import Readiness
from vault.errors import Unavailable
from vault.networks import within
from vault.workings.parts import Parts

__all__ = ["add"]


def add(app: FastAPI, parts: Parts, metrics: Metrics, metrics_to: tuple[str, ...]) -> None:
    """Add them; ``metrics_to`` are the networks that may read the counters. None of them carries a credential."""
    readiness = Readiness(lambda: access.missing(parts))

    @app.get("/metrics", include_in_schema=False)
    def show_metrics(request: Request) -> Response:
        """The counters, to whoever may read them; to others there is no such page."""
        if request.client is None or not within(request.client.host, metrics_to):
            raise HTTPException(404)
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/healthz", **of_route("healthz"))
    async def healthz() -> dict[str, str]:
        """That the process answers: to start it anew would bring back nothing that it lacks."""
        return {"status": "ok"}

    @app.get("/readyz", **of_route("readyz"))
    async def readyz() -> Response:
        """Whether a read could be served: catalog, root document, store and KMS can be had."""
        if await readiness.is_ready():
            return JSONResponse({"status": "ok"})
        return problems.answer(Unavailable("something that every read needs cannot be had at present"))
