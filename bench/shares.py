"""What a broker's shared tables are measured against: a server that shares plain Parquet files, with no checks.

``python bench/shares.py FOLDER`` prints its address once it listens. Every table is that of the files in the folder,
and ``table.json`` there is what is said of it.
"""

import json
import socket
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

_HEADERS = {"Delta-Table-Version": "1", "delta-sharing-capabilities": "responseformat=parquet"}


def _app(folder: Path) -> Starlette:
    told = json.loads((folder / "table.json").read_text())

    def lines(*documents: object) -> Response:
        text = "".join(json.dumps(each) + "\n" for each in documents)
        return Response(text, headers=_HEADERS, media_type="application/x-ndjson")

    async def metadata(_request: Request) -> Response:
        return lines(told["protocol"], told["metaData"])

    async def query(request: Request) -> Response:
        base = str(request.base_url)
        found = [(path, path.stat().st_size) for path in sorted(folder.glob("*.parquet"))]
        files = [{"url": f"{base}files/{path.name}", "id": path.stem, "size": size} for path, size in found]
        return lines(told["protocol"], told["metaData"], *({"file": {**each, "partitionValues": {}}} for each in files))

    async def file(request: Request) -> Response:
        answer = FileResponse(folder / request.path_params["name"])
        answer.chunk_size = 1 << 20  # as a server for files would
        return answer

    table = "/shares/{share}/schemas/{schema}/tables/{table}"
    return Starlette(
        routes=[
            Route(f"{table}/metadata", metadata),
            Route(f"{table}/query", query, methods=["POST"]),
            Route("/files/{name}", file, methods=["GET", "HEAD"]),
        ]
    )


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"serving on http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    app = _app(Path(sys.argv[1]))
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])
