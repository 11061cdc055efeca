"""Tables of Delta Sharing as tests ask for them: over HTTP, through the access path, and with the real client."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import urllib3

from tests.conftest import Lab
from vault import access
from vault.wire import FILES_PATH, SharedTable
from vault.workings.parts import Parts

COLUMNS = ["id", "prompt", "lang", "score", "meta", "when", "local", "price"]


def everything(count: int = 90) -> pa.Table:
    """Rows with nested columns, nulls, time stamps with and without a zone, and decimals."""
    numbers = range(count)
    start = datetime(2026, 1, 1)
    meta = pa.struct([("source", pa.string()), ("tags", pa.list_(pa.string()))])
    return pa.table(
        {
            "id": pa.array(numbers, pa.int64()),
            "prompt": [f"prompt {number}" for number in numbers],
            "lang": ["en" if number % 2 == 0 else "de" for number in numbers],
            "score": pa.array([None if number % 5 == 0 else number / 7 for number in numbers], pa.float64()),
            "meta": pa.array(
                [
                    None if number % 7 == 0 else {"source": f"s{number % 3}", "tags": [f"t{number}", None]}
                    for number in numbers
                ],
                meta,
            ),
            "when": pa.array([start + timedelta(seconds=number) for number in numbers], pa.timestamp("us", "UTC")),
            "local": pa.array([start + timedelta(days=number) for number in numbers], pa.timestamp("ms")),
            "price": pa.array([None if number % 4 == 0 else Decimal(number) / 100 for number in numbers]).cast(
                pa.decimal128(10, 2)
            ),
            "answer": [f"answer {number}" for number in numbers],
        }
    )


def plain(value: Any) -> Any:
    """A value of a data frame, or of Arrow, as plain Python has it."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list) or type(value).__name__ == "ndarray":
        return [plain(each) for each in value]
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime()
    return None if value is pd.NaT or value is pd.NA or (isinstance(value, float) and value != value) else value


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A data frame row by row."""
    return [{key: plain(value) for key, value in row.items()} for row in frame.to_dict("records")]


def arrival(lab: Lab, parts: Parts, vendor: str = "acme") -> access.Arrival:
    """The vendor with a new bearer credential."""
    return access.Arrival(lab.caller(parts, vendor))


def listed(
    parts: Parts, who: access.Arrival, dataset: str = "evals", grant: str | None = None, **hints: Any
) -> list[access.SharedFile]:
    """The files of a dataset's table."""
    return list(access.shared_files(parts, who, SharedTable.of(dataset, grant), access.Hints(**hints)).files)


def fetched(parts: Parts, file: access.SharedFile, address: str = "test") -> bytes:
    """A whole file by its address."""
    found = access.shared_file(parts, ticket_of(file), address)
    return b"".join(found.pieces(0, found.size))


def ticket_of(file: access.SharedFile) -> str:
    """What an address says behind the path that all of them begin with."""
    return file.path.removeprefix(FILES_PATH)


def objects(lab: Lab) -> list[Path]:
    """Every object of a local vault's spool."""
    return sorted(each for each in (lab.folder / "store" / "spool").rglob("*") if each.is_file())


def object_of(lab: Lab, parts: Parts, file: access.SharedFile) -> Path:
    """The object of a file, which a test may write to."""
    place = lab.folder / "store" / access.shared_file(parts, ticket_of(file), "test")._ticket.object
    place.chmod(0o600)
    return place


def table_of(data: bytes) -> pa.Table:
    """A Parquet file's rows."""
    return pq.read_table(io.BytesIO(data))


@dataclass(frozen=True)
class Caller:
    """A vendor's requests to a running broker."""

    profile: Path
    endpoint: str

    @property
    def headers(self) -> dict[str, str]:
        token = json.loads(self.profile.read_text())["bearerToken"]
        return {"Authorization": f"Bearer {token}"}

    def url(self, table: str) -> str:
        """A table as the real client is asked for it."""
        return f"{self.profile}#dsvault.{table}"

    def get(self, path: str, **more: Any) -> urllib3.BaseHTTPResponse:
        """A request below ``/delta-sharing``."""
        headers = {**self.headers, **more.pop("headers", {})}
        return urllib3.request(
            "GET", f"{self.endpoint}/delta-sharing{path}", headers=headers, retries=False, timeout=60, **more
        )

    def query(self, table: str, body: Any = None, **headers: str) -> urllib3.BaseHTTPResponse:
        """What a table's files are; ``table`` is ``schema.name``."""
        schema, name = table.split(".")
        return urllib3.request(
            "POST",
            f"{self.endpoint}/delta-sharing/shares/dsvault/schemas/{schema}/tables/{name}/query",
            headers={**self.headers, "Content-Type": "application/json", **headers},
            body=json.dumps(body or {}).encode(),
            retries=False,
            # By default it is three seconds, in which a busy machine builds no file.
            timeout=60,
        )

    def files(self, table: str, body: Any = None) -> list[dict[str, Any]]:
        """The ``file`` lines of that."""
        answer = self.query(table, body)
        assert answer.status == 200, answer.data
        return [line["file"] for line in lines(answer) if "file" in line]


def lines(answer: urllib3.BaseHTTPResponse) -> list[dict[str, Any]]:
    """The lines of an answer."""
    return [json.loads(line) for line in answer.data.splitlines()]


def caller(lab: Lab, endpoint: str, vendor: str = "acme", **options: Any) -> Caller:
    """The vendor with a new profile."""
    path = lab.folder.parent / f"{vendor}-{len(list(lab.folder.parent.glob('*.share')))}.share"
    lab.vault.issue_credential(vendor, bearer=True, endpoint=endpoint, **options).save(path)
    return Caller(path, endpoint)


def entries(lab: Lab, kind: str) -> Iterator[dict[str, Any]]:
    """The fields of the log's entries of a kind."""
    for _, entry in lab.vault.audit_entries():
        if entry.kind.value == kind:
            yield dict(entry.fields)
