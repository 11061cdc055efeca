"""Reading the log files of a KMS: an OpenBao audit file, or CloudTrail's, compressed or not, whichever it is.

What cannot be read is refused with its file and line, so that nobody hides a call behind a line that is no JSON. Only
the last line of a file may be cut, since the KMS may be writing it.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from vault.errors import InvalidInput
from vault.kms.audit_file import AuditFile
from vault.kms.calls import Told
from vault.kms.cloudtrail import CloudTrail

__all__ = ["read_logs"]

_GZIP: Final = b"\x1f\x8b"
_OPTION: Final = "--kms-log"


def read_logs(paths: list[Path]) -> Told:
    """What files tell, or those in directories; a request that is in several counts once. Raises InvalidInput."""
    told = Told()
    audit, trail = AuditFile(told), CloudTrail(told)
    for path in _files(paths):
        for where, document in _documents(path):
            if "Records" in document:
                for record in _records(document, where):
                    trail.take(record, where)
            elif "eventSource" in document:
                trail.take(document, where)
            else:
                audit.take(document, where)
    audit.end()
    if not told.lines:
        raise InvalidInput(f"{_OPTION}: there is no line of an OpenBao audit device and no record of CloudTrail there")
    return told


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(each for each in path.rglob("*") if each.is_file())
        else:
            yield path


def _records(document: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    records = document["Records"]
    if not isinstance(records, list) or not all(isinstance(each, Mapping) for each in records):
        raise InvalidInput(f"{where}: this is no file of CloudTrail")
    return records


def _documents(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every JSON document of a file and where it stands; a file is one document, or one for each line."""
    fault: str | None = None
    whole: list[str] = []
    for number, line in enumerate(_lines(path), 1):
        if fault is not None and not whole:
            raise InvalidInput(fault)
        text = line[max(line.find("{"), 0) :].strip()  # a device may put a prefix before each line
        if whole:
            whole.append(line)
            continue
        if not text:
            continue
        document = _parse(text)
        if document is not None:
            yield f"{_OPTION}: {path}, line {number}", document
        elif number == 1:
            whole.append(line)  # a document over several lines
        else:
            fault = f"{_OPTION}: {path}, line {number}: this is no JSON object"
    if whole:
        document = _parse("".join(whole))
        if document is None:
            raise InvalidInput(f"{_OPTION}: {path}: this is neither a JSON document nor lines of them")
        yield f"{_OPTION}: {path}", document


def _parse(text: str) -> Mapping[str, Any] | None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, Mapping) else None


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP
        with gzip.open(path, "rb") if packed else path.open("rb") as opened:
            for line in opened:
                yield line.decode("utf-8", errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{_OPTION}: {path}: the file cannot be read ({type(error).__name__})") from error
