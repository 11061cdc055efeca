"""Values of ours as JSON documents, for the steps of jobs and for what the processes of one job tell each other."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from vault.encoding import from_base64, to_base64
from vault.errors import IntegrityError
from vault.keyring import WrappedKey
from vault.manifest import column_entry, read_column
from vault.model import Cut, KeyScope
from vault.workings.reading import GroupShape

__all__ = [
    "cut_document",
    "key_document",
    "read_cut",
    "read_key",
    "read_schema",
    "read_shape",
    "schema_document",
    "shape_document",
]


def key_document(key: WrappedKey) -> dict[str, Any]:
    """A wrapped key."""
    return {
        "scope": asdict(key.scope),
        "key_id": key.key_id,
        "kms_key": key.kms_key,
        "wrapped": to_base64(key.wrapped),
    }


def read_key(document: Mapping[str, Any]) -> WrappedKey:
    """Inverse of `key_document`."""
    wrapped = from_base64(document["wrapped"], "a step of a job")
    return WrappedKey(KeyScope(**document["scope"]), document["key_id"], document["kms_key"], wrapped)


def schema_document(schema: pa.Schema) -> str:
    """An Arrow schema."""
    return to_base64(schema.serialize().to_pybytes())


def read_schema(document: str) -> pa.Schema:
    """Inverse of `schema_document`; raises IntegrityError."""
    try:
        return pa.ipc.read_schema(pa.py_buffer(from_base64(document, "a schema")))
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError("a step of a job holds no schema") from error


def shape_document(shape: GroupShape) -> dict[str, Any]:
    """What the chunks of a column group hold, or of several."""
    return {"columns": [column_entry(column) for column in shape.columns], "schema": schema_document(shape.schema)}


def read_shape(document: Mapping[str, Any]) -> GroupShape:
    """Inverse of `shape_document`."""
    return GroupShape(tuple(read_column(each) for each in document["columns"]), read_schema(document["schema"]))


def cut_document(cut: Cut) -> dict[str, Any]:
    """A cut."""
    return {"source": cut.source, "fields": [[column, [list(path) for path in paths]] for column, paths in cut.fields]}


def read_cut(document: Mapping[str, Any]) -> Cut:
    """Inverse of `cut_document`."""
    fields = tuple((column, tuple(tuple(path) for path in paths)) for column, paths in document["fields"])
    return Cut(document["source"], fields)
