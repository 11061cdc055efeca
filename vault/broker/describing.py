"""What ``/openapi.json`` says beyond what FastAPI finds out by itself: who may ask, and every answer there is.

Each route lists the statuses that it can answer with; the test suite holds real answers against it.
"""

from collections.abc import Callable
from typing import Any, Final

from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse

from vault import wire

__all__ = ["describe", "of_route"]

_Schema = dict[str, Any]

_TEXT: Final[_Schema] = {"type": "string"}
_NUMBER: Final[_Schema] = {"type": "integer", "minimum": 0}
_BYTES: Final[_Schema] = {"type": "string", "contentEncoding": "base64"}


def _object(**members: _Schema) -> _Schema:
    return {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}


def _list(items: _Schema) -> _Schema:
    return {"type": "array", "items": items}


def _map(values: _Schema) -> _Schema:
    return {"type": "object", "additionalProperties": values}


def _or_null(schema: _Schema) -> _Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_FORMAT: Final = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
_SCHEMAS: Final[dict[str, _Schema]] = {
    "Problem": {
        "description": "What was wrong (RFC 9457).",
        "type": "object",
        "properties": {
            "type": {"type": "string", "pattern": "^urn:dsvault:[a-z-]+$"},
            "title": _TEXT,
            "detail": _TEXT,
        },
        "required": ["type", "title", "detail"],
    },
    "SharingError": _object(errorCode=_TEXT, message=_TEXT),
    "SharingItems": {
        "type": "object",
        "properties": {"items": _list(_map(_TEXT)), "nextPageToken": _TEXT},
        "required": ["items"],
        "additionalProperties": False,
    },
    "Share": _object(share=_object(name=_TEXT)),
    "Health": _object(status={"const": "ok"}),
    "Grant": _object(
        dataset=_TEXT,
        grant=_TEXT,
        version=_NUMBER,
        columns=_list(_object(name=_TEXT, type=_TEXT)),
        schema={**_BYTES, "description": "An Arrow IPC schema: the columns as they leave."},
        expires=_or_null(_TEXT),
        purpose=_or_null(_TEXT),
        masks=_map(_TEXT),
        limits=_map(_NUMBER),
        delivery={"enum": ["stream", "lease"]},
        shards={**_or_null(_NUMBER), "description": "How many there are, or null where rows are kept back."},
        row_key={**_or_null(_TEXT), "description": "The column that identifies rows, where it is granted as it is."},
    ),
    "Grants": _object(format=_FORMAT, grants=_list(_ref("Grant")), submissions=_object(most_bytes=_NUMBER)),
    "Submission": _object(format=_FORMAT, submission=_TEXT, received=_TEXT),
    "LeasedChunk": _object(
        chunk=_TEXT,
        key={**_BYTES, "description": "The chunk's key of 32 bytes."},
        size=_NUMBER,
        checksum={"type": "string", "description": "XXH3-128 of the ciphertext."},
        url={"type": "string", "description": "Where the ciphertext is: absolute, or a path at the broker."},
    ),
    "LeasedGroup": _object(compartment=_TEXT, group=_TEXT, epoch=_NUMBER, schema=_BYTES, formerly=_map(_list(_TEXT))),
    "LeasedShard": _object(rows=_NUMBER, cursor=_BYTES, chunks=_list(_ref("LeasedChunk"))),
    "LeasePage": _object(
        format=_FORMAT,
        vault=_TEXT,
        grant=_TEXT,
        version=_NUMBER,
        until=_TEXT,
        rows=_NUMBER,
        schema=_BYTES,
        groups=_list(_ref("LeasedGroup")),
        shards=_list(_ref("LeasedShard")),
        next=_or_null(_BYTES),
    ),
}
_SECURITY: Final[dict[str, _Schema]] = {
    "DPoP": {
        "type": "http",
        "scheme": "DPoP",
        "description": "`DPoP dsv1.<credential>.<secret>`, with a proof in the header `DPoP` (RFC 9449 section 4.2).",
    },
    "Bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "`Bearer dsv1.<credential>.<secret>`, or a token of the vendor's own identity provider.",
    },
}

_MEANING: Final[dict[int, str]] = {
    400: "The request is not valid; `detail` says where.",
    401: "The credential or its proof is not valid: one answer for all reasons.",
    403: "Access is suspended or refused.",
    404: "There is no such thing, or none that is granted: one answer for both.",
    405: "The method is not one that this address takes.",
    408: "The request did not come in time.",
    409: "More than one grant would do, or the version is not the one that is named.",
    411: "The length of the body is not said.",
    413: "The body is longer than 64 KiB, or a submission than may be.",
    414: "The address is too long.",
    415: "The body is not of the type that is taken here.",
    416: "The object has no such range.",
    429: "The grant's limit is used up, or as much waits for the lab as may wait.",
    431: "The headers are too many or too long.",
    500: "What was read is not what was signed, or something unforeseen; nothing was served.",
    503: "The log, the KMS, the store or the catalog cannot be had at present, or there are too many connections.",
}
#: What any request can meet with, before it is known what is asked for.
_ALWAYS: Final = (400, 405, 408, 411, 413, 414, 431, 500, 503)
_OF_A_CALLER: Final = (401, 403)
_OF_A_DATASET: Final = (*_OF_A_CALLER, 404, 409, 415, 429)


def _shared_answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same below ``/delta-sharing/``, in its protocol's form; or not, where a request's path was not read."""
    content = {"application/json": {"schema": _ref("SharingError")}}
    either = {**content, wire.PROBLEM_TYPE: {"schema": _ref("Problem")}}
    return {
        each: {"description": _MEANING[each], "content": either if each in _ALWAYS else content}
        for each in sorted({*_ALWAYS, *statuses})
    }


def _answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {wire.PROBLEM_TYPE: {"schema": _ref("Problem")}}
    return {each: {"description": _MEANING[each], "content": content} for each in sorted({*_ALWAYS, *statuses})}


def _good(text: str, media_type: str, schema: _Schema, **headers: str) -> dict[str, Any]:
    shown = {name.replace("_", "-"): {"description": about, "schema": _TEXT} for name, about in headers.items()}
    return {"description": text, "content": {media_type: {"schema": schema}}, **({"headers": shown} if shown else {})}


_BINARY: Final[_Schema] = {"type": "string", "format": "binary"}
_STREAM: Final = "application/octet-stream"
_WHOLE: Final = _good("The ciphertext.", _STREAM, _BINARY, Accept_Ranges="bytes", Content_Length="Its size.")
_PART: Final = _good("One range of it (RFC 9110 section 14.2).", _STREAM, _BINARY, Content_Range="Which one.")
# A HEAD is answered without a body, whatever the status.
_HEADS: Final = {
    status: {"description": found["description"]}
    for status, found in {200: _WHOLE, 206: _PART, **_answers(404, 416)}.items()
}
_LINES: Final = "application/x-ndjson"
_OF_TABLES: Final = {
    "Delta_Table_Version": "The table's version.",
    "delta_sharing_capabilities": "responseformat=parquet",
}
_OF_A_TABLE: Final = _shared_answers(*_OF_A_CALLER, 404, 409)


def _listing(name: str) -> dict[str, Any]:
    return _good("A page of them.", "application/json", _ref(name))


_ROUTES: Final[dict[str, dict[int | str, dict[str, Any]]]] = {
    "healthz": {200: _good("The process answers.", "application/json", _ref("Health")), **_answers()},
    "readyz": {
        200: _good("Catalog, root document, store and KMS can be had.", "application/json", _ref("Health")),
        **_answers(),
    },
    "datasets": {
        200: _good("What the caller's grants offer.", "application/json", _ref("Grants")),
        **_answers(*_OF_A_CALLER),
    },
    "read": {
        200: _good(
            "The rows. The last message, an empty batch with `dsvault:end`, says how it ended.",
            wire.ARROW_TYPE,
            _BINARY,
            DSVault_Rows="How many rows the whole read has, where nothing is hidden by it.",
        ),
        **_answers(*_OF_A_DATASET),
    },
    "lease": {
        200: _good("A page of the lease; it holds keys.", "application/json", _ref("LeasePage")),
        **_answers(*_OF_A_DATASET),
    },
    "submit": {
        200: _good("The submission is in quarantine.", "application/json", _ref("Submission")),
        **_answers(*_OF_A_DATASET),
    },
    "object": {200: _WHOLE, 206: _PART, **_answers(404, 416)},
    "head_object": _HEADS,
    "shares": {200: _listing("SharingItems"), **_shared_answers(*_OF_A_CALLER)},
    "share": {200: _good("The share.", "application/json", _ref("Share")), **_shared_answers(*_OF_A_CALLER, 404)},
    "schemas": {200: _listing("SharingItems"), **_shared_answers(*_OF_A_CALLER, 404)},
    "tables": {200: _listing("SharingItems"), **_shared_answers(*_OF_A_CALLER, 404)},
    "all_tables": {200: _listing("SharingItems"), **_shared_answers(*_OF_A_CALLER, 404)},
    "version": {200: _good("Nothing; the header says it.", _LINES, _TEXT, **_OF_TABLES), **_OF_A_TABLE},
    "metadata": {200: _good("Protocol and metadata, a line each.", _LINES, _TEXT, **_OF_TABLES), **_OF_A_TABLE},
    "changes": _OF_A_TABLE,
    "query": {
        200: _good("Protocol, metadata and files, a line each.", _LINES, _TEXT, **_OF_TABLES),
        **_OF_A_TABLE,
        **_shared_answers(415),
    },
    "file": {
        200: _good("The Parquet file.", _STREAM, _BINARY, Accept_Ranges="bytes", Content_Length="Its size."),
        206: _PART,
        **_shared_answers(403, 404, 416),
    },
    "head_file": {
        status: {"description": found["description"]}
        for status, found in {200: _WHOLE, 206: _PART, **_shared_answers(403, 404, 416)}.items()
    },
}
#: Routes that return what is to be JSON; the others make their own answers.
_PLAIN: Final = frozenset({"healthz", "readyz", "datasets"})
#: Bodies that are read in pieces, and so are declared here.
_BODIES: Final[dict[str, _Schema]] = {
    "submit": {"requestBody": {"required": True, "content": {wire.SUBMISSION_TYPE: {"schema": _BINARY}}}}
}
_OPEN: Final = frozenset({"healthz", "readyz", "object", "head_object", "file", "head_file"})
#: Where a proof of possession is of no use.
_OF_BEARERS: Final = frozenset(
    {"shares", "share", "schemas", "tables", "all_tables", "version", "metadata", "changes", "query"}
)


def of_route(name: str) -> dict[str, Any]:
    """What a route is declared with: its answers, and who may ask."""
    schemes = ["Bearer"] if name in _OF_BEARERS else list(_SECURITY)
    security: _Schema = {} if name in _OPEN else {"security": [{scheme: []} for scheme in schemes]}
    return {
        "operation_id": name,
        "responses": _ROUTES[name],
        "response_class": JSONResponse if name in _PLAIN else Response,
        "response_model": None,
        "openapi_extra": security | _BODIES.get(name, {}),
    }


def describe(app: FastAPI) -> None:
    """Let an application publish all of it."""
    app.openapi = _published(app)  # type: ignore[method-assign]


def _published(app: FastAPI) -> Callable[[], dict[str, Any]]:
    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(title=app.title, version=app.version, routes=app.routes)
            for methods in found["paths"].values():
                for operation in methods.values():
                    # FastAPI's own answer to a request that is not valid, which here is a 400.
                    operation["responses"].pop("422", None)
            kept = {name: each for name, each in found["components"]["schemas"].items() if "Validation" not in name}
            found["components"] = {"schemas": kept | _SCHEMAS, "securitySchemes": _SECURITY}
            app.openapi_schema = found
        return app.openapi_schema

    return openapi
