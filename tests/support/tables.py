"""Tables of every Arrow type that Parquet holds, and rows to publish."""

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import pyarrow as pa

_TIME = dt.datetime(2026, 1, 31, 12, 30, 15, tzinfo=dt.UTC)

#: A type and three values of it, one of them null.
TYPES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "bool": (pa.bool_(), [True, None, False]),
    "int8": (pa.int8(), [-128, None, 127]),
    "uint64": (pa.uint64(), [2**64 - 1, None, 0]),
    "half": (pa.float16(), [1.5, None, -2.0]),
    "float": (pa.float32(), [0.1, None, float("inf")]),
    "double": (pa.float64(), [0.1, None, -0.0]),
    "decimal32": (pa.decimal32(5, 2), [Decimal("1.23"), None, Decimal("-9.99")]),
    "decimal128": (pa.decimal128(20, 4), [Decimal("1.2345"), None, Decimal("0")]),
    "decimal256": (pa.decimal256(50, 3), [Decimal("1.234"), None, Decimal("-2")]),
    "string": (pa.string(), ["täxt", None, ""]),
    "large_string": (pa.large_string(), ["a" * 1000, None, "b"]),
    "string_view": (pa.string_view(), ["short", None, "longer than twelve bytes"]),
    "binary": (pa.binary(), [b"\x00\xff", None, b""]),
    "binary_view": (pa.binary_view(), [b"a", None, b"x" * 50]),
    "fixed_binary": (pa.binary(3), [b"abc", None, b"def"]),
    "date32": (pa.date32(), [dt.date(2026, 1, 31), None, dt.date(1969, 12, 31)]),
    "date64": (pa.date64(), [dt.date(2026, 1, 31), None, dt.date(1970, 1, 1)]),
    "time32[s]": (pa.time32("s"), [dt.time(1, 2, 3), None, dt.time(0)]),
    "time32[ms]": (pa.time32("ms"), [dt.time(1, 2, 3, 4000), None, dt.time(0)]),
    "time64": (pa.time64("us"), [dt.time(1, 2, 3, 4), None, dt.time(0)]),
    "timestamp[s]": (pa.timestamp("s"), [dt.datetime(2026, 1, 31), None, dt.datetime(1970, 1, 1)]),
    "timestamp[ns, zone]": (pa.timestamp("ns", "Asia/Tokyo"), [_TIME, None, _TIME]),
    "timestamp[s, UTC]": (pa.timestamp("s", "UTC"), [_TIME, None, _TIME]),
    "duration": (pa.duration("s"), [dt.timedelta(seconds=5), None, dt.timedelta(0)]),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), ["a", None, "b"]),
    "ordered dictionary": (pa.dictionary(pa.int16(), pa.string(), ordered=True), ["low", None, "high"]),
    "dictionary of ints": (pa.dictionary(pa.int32(), pa.int64()), [5, None, 6]),
    "null": (pa.null(), [None, None, None]),
    "list": (pa.list_(pa.int32()), [[1, None], None, []]),
    "large_list": (pa.large_list(pa.string()), [["a"], None, []]),
    "embedding": (pa.list_(pa.float32(), 4), [[1, 2, 3, 4], None, [0, 0, 0, 0]]),
    "list of dictionaries": (pa.list_(pa.dictionary(pa.int8(), pa.string())), [["a", "b"], None, ["a"]]),
    "map": (pa.map_(pa.string(), pa.int32()), [[("a", 1)], None, []]),
    "struct": (
        pa.struct([("when", pa.timestamp("s")), ("tags", pa.list_(pa.date64())), ("n", pa.struct([("x", pa.int8())]))]),
        [
            {"when": dt.datetime(2026, 1, 1), "tags": [dt.date(2026, 1, 1)], "n": {"x": 1}},
            None,
            {"when": None, "tags": None, "n": None},
        ],
    ),
    "messages": (
        pa.list_(pa.struct([("role", pa.string()), ("content", pa.large_string())])),
        [[{"role": "user", "content": "hi"}, None], None, []],
    ),
    "uuid": (pa.uuid(), [uuid.UUID(int=1).bytes, None, uuid.UUID(int=2**128 - 1).bytes]),
    "json": (pa.json_(), ['{"a": 1}', None, "[]"]),
}


def array_of(kind: pa.DataType, values: list[Any]) -> pa.Array:
    """An array of any type, dictionaries and extension types among them."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    return pa.array(values, kind)


def every_type() -> pa.Table:
    """One column of each type, three rows, and a column that numbers them."""
    columns = {name: array_of(kind, values) for name, (kind, values) in TYPES.items()}
    return pa.table({"row": [0, 1, 2], **columns})


def rows(count: int, start: int = 0) -> pa.Table:
    """An eval-like table: id, prompt, answer, lang, score and nested metadata."""
    numbers = range(start, start + count)
    return pa.table(
        {
            "id": pa.array(numbers, pa.int64()),
            "prompt": [f"prompt number {number}" for number in numbers],
            "answer": [f"the answer to {number}" for number in numbers],
            "lang": ["en" if number % 2 == 0 else "de" for number in numbers],
            "score": pa.array([None if number % 5 == 0 else number / 7 for number in numbers], pa.float64()),
            "meta": [{"source": f"s{number % 3}", "notes": f"private {number}"} for number in numbers],
        }
    )


def same(left: pa.Table, right: pa.Table) -> bool:
    """Equal schemas and equal values; dictionaries are compared by what they stand for."""
    return bool(left.schema.equals(right.schema) and left.to_pylist() == right.to_pylist())
