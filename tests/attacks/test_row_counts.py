"""A vendor that counts: of rows that a filter hides, no answer tells how many there are."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from vault.client import Client
from vault.wire import CURSOR_KEY

_MANY = 70_000


def _table(hidden: int) -> pa.Table:
    """Ten rows that are to be seen, and so many that are not."""
    numbers = list(range(10 + hidden))
    return pa.table({"id": numbers, "kind": ["open"] * 10 + ["hidden"] * hidden})


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Datasets with few and with many hidden rows, under a row filter; and one that acme and globex may read whole."""
    folder = tmp_path_factory.mktemp("counts") / "lab"
    opened = vault.init(folder)
    for vendor in ("acme", "globex"):
        opened.add_vendor(vendor)
    for name, hidden in (("few", 5), ("many", _MANY)):
        opened.publish(name, _table(hidden))
        opened.grant("acme", name, ["id"], where="kind = 'open'")
    opened.publish("whole", _table(20), shard_rows=7)
    opened.grant("acme", "whole", ["id", "kind"])
    opened.grant("globex", "whole", ["id"], limits={"rows": 12})
    return Lab(folder, opened)


@pytest.fixture(scope="module")
def endpoint(lab: Lab) -> Iterator[str]:
    """A broker of it."""
    with broker(lab.folder) as url:
        yield url


@pytest.fixture
def client(lab: Lab, endpoint: str) -> Client:
    """Acme's client."""
    return vault.connect(lab.profile("acme", endpoint))


def _answer(client: Client, dataset: str, body: bytes = b"{}") -> tuple[dict[str, str], bytes]:
    """The headers of a read, but for time and request id, and its body, but for the sealed cursors."""
    response = client.connection.send("POST", f"/v1/datasets/{dataset}/read", body)
    data = response.read()
    chance = {"date", "x-request-id"}
    headers = {name.lower(): value for name, value in response.headers.items() if name.lower() not in chance}
    for cursor in _cursors(data):
        data = data.replace(cursor, b"-" * len(cursor))
    return headers, data


def _cursors(data: bytes) -> list[bytes]:
    found = []
    with pa.ipc.open_stream(data) as stream:
        while True:
            try:
                _, metadata = stream.read_next_batch_with_custom_metadata()
            except StopIteration:
                return found
            if metadata and CURSOR_KEY in metadata:
                found.append(metadata[CURSOR_KEY])


def test_hidden_rows_change_nothing_of_an_answer(client: Client) -> None:
    """Five hidden rows or seventy thousand: status, headers, schema, metadata and lengths are the same."""
    few, many = _answer(client, "few"), _answer(client, "many")
    assert few[0] == many[0]
    assert few[1] == many[1]
    assert "dsvault-rows" not in few[0]


@pytest.mark.parametrize(
    "body", [b"{}", b'{"limit": 3}', b'{"where": "id >= 0"}', b'{"where": "id > 8", "limit": 100000}']
)
def test_no_total_under_a_row_filter(client: Client, body: bytes) -> None:
    """However it is asked, a filtered grant's answer has no total, and its form does not depend on hidden rows."""
    few, many = _answer(client, "few", body), _answer(client, "many", body)
    assert few == many
    assert "dsvault-rows" not in few[0]


def test_no_total_for_a_delegate_that_sees_some_rows(client: Client, lab: Lab, tmp_path: Path, endpoint: str) -> None:
    """A delegation's filter hides rows too; one that only narrows the columns hides none."""
    profile = lab.profile("acme", endpoint)
    options: dict[str, Any] = {"expires": timedelta(hours=1), "dataset": "whole"}
    vault.client.delegate(profile, "ann", tmp_path / "ann.json", where="kind = 'open'", **options)
    headers, _ = _answer(vault.connect(tmp_path / "ann.json"), "whole")
    assert "dsvault-rows" not in headers
    vault.client.delegate(profile, "bob", tmp_path / "bob.json", columns=["id"], **options)
    headers, _ = _answer(vault.connect(tmp_path / "bob.json"), "whole")
    assert headers["dsvault-rows"] == "30"


def test_no_total_where_it_could_not_be_counted(client: Client, lab: Lab, endpoint: str) -> None:
    """Of a grant that ends after so many rows, how many there are in all is not told."""
    headers, _ = _answer(vault.connect(lab.profile("globex", endpoint)), "whole", b'{"limit": 5}')
    assert "dsvault-rows" not in headers


def test_the_total_of_a_whole_grant(client: Client) -> None:
    """It is what comes: all rows, or the limit; the same wherever the read is taken up; none with a predicate."""
    assert client.open("whole").reading().total == 30
    assert client.open("whole").reading(limit=11).total == 11
    assert client.open("whole").reading(limit=31).total == 30
    assert client.open("whole").reading(where="id < 3").total is None
    first = next(client.open("whole").reading().pieces)
    again = client.open("whole").reading(place=first.place, done=first.batch.num_rows)
    assert again.total == 30
    assert sum(piece.batch.num_rows for piece in again.pieces) == 30 - first.batch.num_rows
