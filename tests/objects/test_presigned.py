"""Addresses that are signed for a while, on a server that checks signatures: whoever holds one reads one object."""

import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pytest
import urllib3

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.bucketline import BucketLine
from tests.support.servers import SeaweedFS
from tests.support.tables import rows
from vault import access
from vault.client import leases
from vault.policy import Request


@pytest.fixture
def lab(tmp_path: Path, seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A vault on SeaweedFS, of which acme may lease three columns."""
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)
    opened = vault.init(tmp_path / "lab", store=f"s3://{seaweed.bucket()}/vault")
    opened.add_vendor("acme")
    opened.publish("evals", rows(100), key="id", shard_rows=30)
    opened.grant("acme", "evals", ["id", "prompt", "score"], delivery="lease")
    return Lab(tmp_path / "lab", opened)


def _status(url: str, method: str = "GET") -> int:
    return urllib3.request(method, url, retries=False, timeout=30).status


def test_a_signed_address_is_for_one_object_and_for_reading(lab: Lab) -> None:
    """It is signed with SigV4 and reads its chunk; altered in any part, for another object or act, it is refused."""
    parts = lab.broker_parts()
    page = access.lease_page(parts, lab.caller(parts, "acme"), Request("evals", lease=True))
    first, second = (shard.chunks[0] for shard in page.shards[:2])
    asked = parse_qs(urlsplit(first.url).query)
    assert asked["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert 290 <= int(asked["X-Amz-Expires"][0]) <= 300
    answer = urllib3.request("GET", first.url, retries=False, timeout=30)
    assert (answer.status, len(answer.data)) == (200, first.size)
    other = urlsplit(first.url)._replace(path=urlsplit(second.url).path).geturl()
    signature = asked["X-Amz-Signature"][0]
    for url in (
        other,
        first.url.replace(signature, signature[::-1]),
        first.url.replace("X-Amz-Expires=", "X-Amz-Expires=9"),
        first.url.partition("?")[0],
    ):
        assert _status(url) == 403
    for method in ("PUT", "DELETE"):
        assert _status(first.url, method) == 403
    assert _status(second.url) == 200


def test_a_signed_address_ends(lab: Lab) -> None:
    """After its seconds the server refuses it."""
    store = lab.vault.parts.store
    name = next(store.list("objects")).name
    url = store.link(name, 2)
    assert url is not None
    assert _status(url) == 200
    time.sleep(3.5)
    assert _status(url) == 403


@pytest.mark.parametrize("size", [16 << 20, 500])
def test_a_client_reads_the_store_straight(
    lab: Lab, seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """With an address for each chunk, whole or in ranges, nothing of it goes through the broker."""
    monkeypatch.setattr(leases, "_RANGE", size)
    with BucketLine(seaweed.url) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        with broker(lab.folder) as url:
            client = vault.connect(lab.profile("acme", url))
            get, through = client.connection.get, []

            def noting(address: str, *rest: int) -> tuple[int, bytes]:
                through.append(address.startswith("/"))
                return get(address, *rest)

            monkeypatch.setattr(client.connection, "get", noting)
            table = client.dataset("evals").to_arrow(delivery="lease")
    assert table.equals(pa.table(rows(100).select(["id", "prompt", "score"])))
    assert through
    assert not any(through)


def test_a_range_that_a_store_does_not_know_is_no_data(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that answers a range with the whole object is asked for the whole; a cut range is found and asked again."""
    monkeypatch.setattr(leases, "_RANGE", 500)
    with broker(lab.folder) as url:
        client = vault.connect(lab.profile("acme", url))
        get, cut = client.connection.get, [True]

        def whole(address: str, size: int, start: int | None = None) -> tuple[int, bytes]:
            return get(address, size) if start is None else (200, b"x" * size)

        def cutting(address: str, size: int, start: int | None = None) -> tuple[int, bytes]:
            status, data = get(address, size, start)
            return (status, data[:-1]) if start is not None and cut and cut.pop() else (status, data)

        for each in (whole, cutting):
            monkeypatch.setattr(client.connection, "get", each)
            assert client.dataset("evals").to_arrow(delivery="lease").num_rows == 100
        assert cut == []
