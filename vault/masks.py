"""Masks: what a vendor gets in the place of a column's values. Pure functions over Arrow columns.

A mask decides on the type alone whether it can be used, so that a grant is refused when it is made and never while it
is read. None of them depends on other rows. A hash is keyed (HMAC-SHA256, RFC 2104, FIPS 198-1) with a key of the
vendor's: equal values of one vendor are equal in every dataset, so joins work, and two vendors' hashes have nothing in
common.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from vault.errors import IntegrityError, InvalidInput

__all__ = ["FORMS", "Mask", "is_keyed"]

#: What can stand after ``COLUMN=``, for people.
FORMS: Final = "redact, null, hash, truncate:N, last:N, domain, date:UNIT, round:STEP"
_REDACTED: Final = "[redacted]"
_UNITS: Final = ("year", "quarter", "month", "week", "day", "hour")
_COUNT: Final = re.compile(r"[0-9]{1,9}")
#: Hexadecimal digits of a hash: 128 bits, beyond any chance that two values meet.
_DIGITS: Final = 32


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask by its kind and argument; `text` is its one written form."""

    kind: str
    argument: str | None = None

    @classmethod
    def parse(cls, text: str, place: str) -> "Mask":
        """Read ``kind`` or ``kind:argument``; raises InvalidInput naming ``place``."""
        kind, colon, argument = text.strip().partition(":")
        if kind not in _KINDS or bool(colon) != _KINDS[kind].has_argument:
            raise InvalidInput(f"{place}: {text[:80]!r} is no mask; there are {FORMS}")
        if not colon:
            return cls(kind)
        argument = argument.strip()
        if kind in {"truncate", "last"} and (_COUNT.fullmatch(argument) is None or not int(argument)):
            raise InvalidInput(f"{place}: {kind} takes a number of characters, 1 or more")
        if kind == "date" and argument not in _UNITS:
            raise InvalidInput(f"{place}: date takes one of {', '.join(_UNITS)}")
        if kind == "round" and not _is_step(argument):
            raise InvalidInput(f"{place}: round takes a step such as 10 or 0.5")
        return cls(kind, str(int(argument)) if kind in {"truncate", "last"} else argument)

    @property
    def text(self) -> str:
        """The written form, which a grant signs."""
        return self.kind if self.argument is None else f"{self.kind}:{self.argument}"

    @property
    def keyed(self) -> bool:
        """Whether it needs the vendor's mask key."""
        return self.kind == "hash"

    def output(self, field: pa.Field, place: str) -> pa.Field:
        """The field that a vendor sees; raises InvalidInput, naming ``place``, for a type that the mask is not for.

        The field's own metadata is dropped: it may speak of values.
        """
        kind = _KINDS[self.kind].type_of(_plain(field.type), self.argument)
        if kind is None:
            raise InvalidInput(f"{place}: {self.text} is not for {field.type} columns: {_KINDS[self.kind].takes}")
        if kind == _plain(field.type) and self.kind == "null":
            kind = field.type
        try:
            # Such as a zone that this machine knows nothing of: found out now, on no value at all.
            self._apply(pa.chunked_array([pa.nulls(1, field.type)]), b"\x00" * 32)
        except (pa.ArrowException, ValueError) as error:
            raise InvalidInput(f"{place}: {self.text} cannot be used on {field.type} columns here") from error
        return pa.field(field.name, kind, nullable=True)

    def apply(self, column: pa.ChunkedArray, key: bytes | None) -> pa.ChunkedArray:
        """The masked column; ``key`` is the vendor's mask key, which a hash needs. Raises IntegrityError without."""
        try:
            return self._apply(column, key)
        except pa.ArrowInvalid as error:
            # Such as the smallest number there is, rounded down. Arrow's own text would quote it.
            raise IntegrityError(f"a value of a column cannot be masked with {self.text}") from error

    def _apply(self, column: pa.ChunkedArray, key: bytes | None) -> pa.ChunkedArray:
        if self.kind == "null":
            return pa.chunked_array([pa.nulls(len(column), column.type)])
        kind = _plain(column.type)
        plain = column if column.type == kind else _decoded(column, kind)
        if self.kind == "redact":
            return pa.chunked_array([pa.repeat(pa.scalar(_REDACTED), len(column))])
        if self.kind == "hash":
            if key is None:
                raise IntegrityError("a hash has no mask key")
            return _hashed(plain, kind, key)
        return _KINDS[self.kind].values(plain, self.argument)


def is_keyed(masks: Mapping[str, str]) -> bool:
    """Whether one of these written forms needs the vendor's mask key."""
    return any(Mask.parse(text, "a grant's mask").keyed for text in masks.values())


def _is_step(text: str) -> bool:
    try:
        return re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) is not None and Decimal(text) > 0
    except InvalidOperation:
        return False


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of a column's values: without dictionaries, and text without views."""
    if pt.is_dictionary(kind):
        return _plain(kind.value_type)
    if pt.is_string_view(kind):
        return pa.large_string()
    if pt.is_binary_view(kind):
        return pa.large_binary()
    return kind


def _decoded(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if not pt.is_dictionary(column.type):
        return column.cast(kind)
    chunks = [chunk.dictionary.cast(kind).take(chunk.indices) for chunk in column.chunks]
    return pa.chunked_array(chunks, type=kind)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind))


def _hashed(column: pa.ChunkedArray, kind: pa.DataType, key: bytes) -> pa.ChunkedArray:
    """Each distinct value's HMAC once. Text, whole numbers and bytes never hash alike, whatever their bytes are."""
    start = HMAC(key, SHA256())
    start.update(b"dsvault mask\x00")
    tag: bytes
    encode: Callable[[Any], bytes]
    if pt.is_integer(kind):
        tag, encode = b"i", lambda value: str(value).encode()
    elif _is_text(kind):
        tag, encode = b"t", str.encode
    else:
        tag, encode = b"b", bytes
    start.update(tag)

    def digest(value: Any) -> str:
        each = start.copy()
        each.update(encode(value))
        return each.finalize().hex()[:_DIGITS]

    found = []
    for chunk in column.chunks:
        encoded = chunk.dictionary_encode()
        names = pa.array(
            [None if value is None else digest(value) for value in encoded.dictionary.to_pylist()], pa.string()
        )
        found.append(names.take(encoded.indices))
    return pa.chunked_array(found, type=pa.string())


def _truncated(column: pa.ChunkedArray, argument: str | None) -> pa.ChunkedArray:
    count = int(argument or 0)
    if _is_bytes(column.type):
        return pc.binary_slice(column, 0, count)
    return pc.utf8_slice_codeunits(column, 0, count)


def _last(column: pa.ChunkedArray, argument: str | None) -> pa.ChunkedArray:
    return pc.utf8_slice_codeunits(column, -int(argument or 0), 2**31 - 1)


def _domain(column: pa.ChunkedArray, _argument: str | None) -> pa.ChunkedArray:
    # What has no @ is no address, and nothing of it is shown.
    return pc.struct_field(pc.extract_regex(column, r"(?s)@(?P<domain>[^@]*)\z"), "domain").cast(column.type)


def _floored(column: pa.ChunkedArray, argument: str | None) -> pa.ChunkedArray:
    floored = pc.floor_temporal(column, unit=argument)
    return floored if floored.type == column.type else floored.cast(column.type)


def _rounded(column: pa.ChunkedArray, argument: str | None) -> pa.ChunkedArray:
    step = pa.scalar(Decimal(argument or "1"))
    multiple = (
        step.cast(column.type) if not pt.is_floating(column.type) else pa.scalar(float(argument or 1), column.type)
    )
    return pc.round_to_multiple(column, multiple=multiple, round_mode="down").cast(column.type)


def _for_text(kind: pa.DataType, _argument: str | None) -> pa.DataType | None:
    return kind if _is_text(kind) else None


def _for_dates(kind: pa.DataType, argument: str | None) -> pa.DataType | None:
    dated = pt.is_timestamp(kind) or (pt.is_date(kind) and argument != "hour")
    return kind if dated else None


def _for_numbers(kind: pa.DataType, argument: str | None) -> pa.DataType | None:
    if (
        pt.is_integer(kind)
        and argument is not None
        and "." not in argument
        and int(argument) < 2 ** (kind.bit_width - 1)
    ):
        return kind
    if pt.is_decimal(kind) or pt.is_float32(kind) or pt.is_float64(kind):
        return kind
    return None


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of mask: whether it has an argument, the type it makes of one (None: not for it), and how."""

    has_argument: bool
    takes: str
    type_of: Callable[[pa.DataType, str | None], pa.DataType | None]
    values: Callable[[pa.ChunkedArray, str | None], pa.ChunkedArray] = lambda column, _argument: column


_KINDS: Final = {
    "redact": _Kind(False, "it is for text; null is for every type", lambda k, _: pa.string() if _is_text(k) else None),
    "null": _Kind(False, "", lambda kind, _: kind),
    "hash": _Kind(
        False,
        "it is for text, whole numbers and bytes",
        lambda k, _: pa.string() if _is_text(k) or pt.is_integer(k) or _is_bytes(k) else None,
    ),
    "truncate": _Kind(
        True, "it is for text and bytes", lambda k, _: k if _is_text(k) or _is_bytes(k) else None, _truncated
    ),
    "last": _Kind(True, "it is for text", _for_text, _last),
    "domain": _Kind(False, "it is for text", _for_text, _domain),
    "date": _Kind(True, "it is for dates and timestamps, the hour for timestamps", _for_dates, _floored),
    "round": _Kind(True, "it is for numbers, a fraction not for whole ones", _for_numbers, _rounded),
}
