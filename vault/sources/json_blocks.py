"""Cutting JSON input into blocks of whole rows, with memory bounded by a block and the longest row.

Line-delimited input is cut at line ends. An array is walked through a window that slides over its text, and its
items become lines. Nothing here decides about types.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from vault.errors import InvalidInput
from vault.sources.files import SourceFile

__all__ = ["BadRow", "Block", "blocks", "named_once", "no_constant"]

_BLOCK: Final = 8 * 1024 * 1024
#: Bytes (characters in an array) of one row at most: what is not JSON at all must not be read into memory whole.
_ROW_LIMIT: Final = 256 * 1024 * 1024
#: An error this close to the end of the window may be due to its end: no JSON token that can be cut is longer.
_TOKEN: Final = 16
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Block:
    """Whole rows, one a line; ``first`` is the number of the first line (or row of an array), from 1."""

    data: bytes
    first: int


class BadRow(ValueError):
    """A row that is JSON and yet none that can be published; the message says why."""


def named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are neither empty nor repeated; raises BadRow."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadRow("a column stands twice in the row")
    if "" in found:
        raise BadRow("a column has an empty name")
    return found


def no_constant(_name: str) -> Any:
    """Refuse what Python reads and JSON does not have; raises BadRow."""
    raise BadRow("NaN and Infinity are not JSON")


def blocks(file: SourceFile, stream: Any) -> Iterator[Block]:
    """The rows of a stream, block by block; raises InvalidInput."""
    return _array_blocks(file, stream) if file.format == "json" else _line_blocks(file, stream)


def _too_long(file: SourceFile, word: str, number: int) -> InvalidInput:
    return InvalidInput(f"{file.shown}: {word} {number} is longer than {_ROW_LIMIT >> 20} MiB")


def _line_blocks(file: SourceFile, stream: Any) -> Iterator[Block]:
    pieces: list[bytes] = []
    held, line, fresh = 0, 1, True
    while data := stream.read(_BLOCK):
        if fresh:
            data, fresh = data.removeprefix(_BOM), False
        cut = data.rfind(b"\n") + 1
        if cut:
            block = b"".join([*pieces, data[:cut]])
            yield Block(block, line)
            line += block.count(b"\n")
            pieces, held = [], 0
        pieces.append(data[cut:])
        held += len(data) - cut
        if held > _ROW_LIMIT:
            raise _too_long(file, "line", line)
    rest = b"".join(pieces)
    if rest.strip():
        yield Block(rest, line)


def _array_blocks(file: SourceFile, stream: Any) -> Iterator[Block]:
    rows: list[bytes] = []
    size, first = 0, 1
    for number, row in enumerate(_array_items(file, stream), 1):
        rows.append(_line(f"{file.shown}: row {number}", row))
        size += len(rows[-1])
        if size >= _BLOCK:
            yield Block(b"\n".join(rows), first)
            rows, size, first = [], 0, number + 1
    if rows:
        yield Block(b"\n".join(rows), first)


def _line(place: str, row: Any) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{place}: a text holds half of a surrogate pair, which is no character") from error
    except ValueError as error:
        raise InvalidInput(f"{place}: a number is too large for a double") from error


def _array_items(file: SourceFile, stream: Any) -> Iterator[Any]:
    """The items of an array through a window that grows to the longest of them."""
    text = _Text(file, stream)
    decoder = json.JSONDecoder(object_pairs_hook=named_once, parse_constant=no_constant)
    if text.next_character() != "[":
        raise InvalidInput(f"{file.shown}: a .json file holds an array of objects; one object a line is .jsonl")
    text.skip(1)
    row = 1
    while (character := text.next_character()) != "]":
        if row > 1:
            if character != ",":
                raise InvalidInput(f"{file.shown}: row {row}: this is not valid JSON")
            text.skip(1)
            text.next_character()
        yield text.value(decoder, row)
        row += 1
    text.skip(1)
    if text.next_character():
        raise InvalidInput(f"{file.shown}: something follows the array")


class _Text:
    """A sliding window over the UTF-8 text of a stream."""

    def __init__(self, file: SourceFile, stream: Any) -> None:
        self._file = file
        self._stream = stream
        self._window = ""
        self._at = 0
        self._bytes = b""
        self._ended = False
        self._fill()
        self._window = self._window.removeprefix("\ufeff")

    def _fill(self) -> bool:
        data = self._stream.read(max(_BLOCK, len(self._window) - self._at))
        self._ended = not data
        self._bytes += data
        try:
            text = self._bytes.decode("utf-8")
            self._bytes = b""
        except UnicodeDecodeError as error:
            if self._ended or len(self._bytes) - error.start >= 4:
                raise InvalidInput(f"{self._file.shown}: the text is not valid UTF-8") from error
            text, self._bytes = self._bytes[: error.start].decode("utf-8"), self._bytes[error.start :]
        self._window = self._window[self._at :] + text
        self._at = 0
        return not self._ended

    def next_character(self) -> str:
        while True:
            while self._at < len(self._window) and self._window[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._fill():
                return ""

    def skip(self, count: int) -> None:
        self._at += count

    def _may_be_cut(self, error: ValueError) -> bool:
        """Whether more text could mend the error: one in the midst of the window is final, and reads no further."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated string") or error.pos >= len(self._window) - _TOKEN

    def value(self, decoder: json.JSONDecoder, row: int) -> Any:
        while True:
            if len(self._window) - self._at > _ROW_LIMIT:
                raise _too_long(self._file, "row", row)
            try:
                found, end = decoder.raw_decode(self._window, self._at)
            except BadRow as error:
                raise InvalidInput(f"{self._file.shown}: row {row}: {error}") from error
            except RecursionError as error:
                raise InvalidInput(f"{self._file.shown}: row {row}: this is nested too deep") from error
            except ValueError as error:
                if not self._may_be_cut(error) or not self._fill():
                    raise InvalidInput(f"{self._file.shown}: row {row}: this is not valid JSON") from error
                continue
            if end == len(self._window) and self._fill():
                continue  # a number might go on behind the window
            self._at = end
            if not isinstance(found, dict):
                raise InvalidInput(f"{self._file.shown}: row {row}: this is not an object")
            return found
