"""Leases: the vendor's client gets chunk keys and ciphertext, and reads what a stream would have sent."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import boto3
import pyarrow as pa
import pytest
import urllib3

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.tables import rows
from vault import access
from vault.client import leases
from vault.errors import IntegrityError, InvalidInput, LimitReached, Unavailable, VaultError
from vault.owner import Vault
from vault.policy import Request
from vault.workings.parts import Parts

pytestmark = pytest.mark.both_catalogs

_WHOLE = ["id", "prompt", "lang", "score"]


@pytest.fixture
def leased(cast: Callable[..., Lab]) -> Lab:
    """A vault with 100 rows in shards of 30, of which acme may lease all columns."""
    return cast(_leased, "published")


def _leased(opened: Vault) -> None:
    opened.grant("acme", "evals", _WHOLE, delivery="lease")


def _entries(lab: Lab, kind: str) -> list[dict[str, object]]:
    return [dict(entry.fields) for _, entry in lab.vault.audit_entries() if entry.kind.value == kind]


def _page(parts: Parts, caller: access.Caller, cursor: bytes | None = None, **options: object) -> vault.wire.LeasePage:
    return access.lease_page(parts, caller, Request("evals", lease=True), cursor, **options)  # type: ignore[arg-type]


def test_a_lease_reads_what_a_stream_sends(leased: Lab) -> None:
    """All columns and some of them, in any order, are equal however they are delivered."""
    leased.vault.rename_column("evals", "prompt", "question")
    with broker(leased.folder) as url:
        dataset = vault.connect(leased.profile("acme", url)).dataset("evals")
        assert [grant.delivery for grant in dataset.grants] == ["lease"]
        for columns in (None, ["score"], ["lang", "question"]):
            table = dataset.to_arrow(columns=columns, delivery="lease")
            assert table.equals(dataset.to_arrow(columns=columns, delivery="stream"))
            assert table.num_rows == 100
        assert dataset.to_arrow().num_rows == 100
        assert dataset.to_arrow(where="id < 5").num_rows == 5
        assert dataset.to_arrow(limit=7).num_rows == 7
        with pytest.raises(InvalidInput, match="a lease is of all rows"):
            dataset.scan(where="id < 5", delivery="lease")
    assert len(_entries(leased, "lease page handed out")) == 4


def test_a_lease_comes_in_pages_and_each_is_written_down(leased: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of one shard each: an entry for each, with its shards, rows, bytes and columns, and no row twice."""
    monkeypatch.setattr(leases, "_FIRST_PAGE", 1)
    monkeypatch.setattr(leases, "_MOST_PAGE", 1)
    with broker(leased.folder) as url:
        table = vault.connect(leased.profile("acme", url)).dataset("evals").to_arrow(columns=["id", "score"])
    assert table.column("id").to_pylist() == list(range(100))
    entries = _entries(leased, "lease page handed out")
    assert [entry["shards"] for entry in entries] == [[[0, 0]], [[1, 1]], [[2, 2]], [[3, 3]]]
    assert [entry["rows"] for entry in entries] == [30, 30, 30, 10]
    assert all(entry["columns"] == ["id", "score"] and entry["bytes"] > 0 for entry in entries)
    assert all(entry["vendor"] == "acme" and entry["grant"] and entry["until"] for entry in entries)


def test_a_key_goes_out_only_after_its_entry(leased: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the entry cannot be written, no key is even unwrapped."""
    parts = leased.broker_parts()
    caller = leased.caller(parts, "acme")

    def refuse(*_args: object, **_kwargs: object) -> int:
        raise vault.errors.AuditError("the disk is full")

    monkeypatch.setattr(type(parts.journal), "record_in", refuse)
    _ = access.offerings(parts, caller)
    before = parts.keyring.counts
    with pytest.raises(vault.errors.AuditError):
        _page(parts, caller)
    after = parts.keyring.counts
    assert after.unwraps == before.unwraps


def test_limits_are_charged_for_whole_shards_before_a_key_goes_out(published: Lab) -> None:
    """Of 70 rows two shards of 30 fit; then none does, and a stream takes the rest."""
    published.vault.grant("acme", "evals", ["id"], limits={"rows": 70}, delivery="lease")
    parts = published.broker_parts()
    caller = published.caller(parts, "acme")
    page = _page(parts, caller)
    assert [shard.rows for shard in page.shards] == [30, 30]
    (state,) = published.vault.grants()
    assert state.used.total["rows"] == 60
    assert state.used.total["bytes"] == sum(chunk.size for shard in page.shards for chunk in shard.chunks)
    with pytest.raises(LimitReached, match="less than a shard"):
        _page(parts, caller, page.next)
    with pytest.raises(LimitReached, match="less than a shard"):
        _page(parts, caller)
    delivery = access.open_delivery(parts, caller, Request("evals"))
    with pytest.raises(LimitReached):
        list(delivery.batches)
    assert published.vault.grants()[0].used.total["rows"] == 70


def test_a_page_ends_with_its_grant(published: Lab) -> None:
    """The addresses of a page are good for 300 seconds, and no longer than the grant."""
    published.vault.grant("acme", "evals", ["id"], expires=timedelta(seconds=20), delivery="lease")
    parts = published.broker_parts()
    page = _page(parts, published.caller(parts, "acme"))
    left = vault.encoding.from_timestamp(page.until) - parts.clock()
    assert timedelta(seconds=10) < left <= timedelta(seconds=20)


def test_a_lease_is_taken_up_where_its_addresses_ended(leased: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two chunks cannot be fetched at their addresses: the page is asked for anew, and no row is lost or doubled."""
    with broker(leased.folder) as url:
        client = vault.connect(leased.profile("acme", url))
        get, calls = client.connection.get, iter(range(1000))

        def failing(address: str, size: int) -> tuple[int, bytes]:
            return (403, b"") if next(calls) in {5, 14} else get(address, size)

        monkeypatch.setattr(client.connection, "get", failing)
        table = client.dataset("evals").to_arrow()
    assert table.column("id").to_pylist() == list(range(100))
    assert len(_entries(leased, "lease page handed out")) > 1


def test_a_lease_whose_addresses_never_work_ends_with_a_sentence(leased: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client gives up once nothing has come within its patience."""
    with broker(leased.folder) as url:
        client = vault.connect(leased.profile("acme", url), patience=timedelta(seconds=1))
        monkeypatch.setattr(client.connection, "get", lambda address, size: (403, b""))
        with pytest.raises(Unavailable, match="a chunk could not be fetched"):
            client.dataset("evals").to_arrow()


def test_a_chunk_that_was_changed_in_the_store_is_refused(leased: Lab) -> None:
    """The client says which chunk it is, and hands out none of the read as whole."""
    parts = leased.broker_parts()
    chunk = _page(parts, leased.caller(parts, "acme")).shards[1].chunks[0].chunk
    store = leased.vault.parts.store
    (name,) = (found.name for found in store.list("objects") if found.name.endswith(chunk))
    data = bytearray(store.get(name))
    data[40] ^= 1
    store.delete(name)
    store.put(name, bytes(data))
    with broker(leased.folder) as url, pytest.raises(VaultError) as caught:
        vault.connect(leased.profile("acme", url)).dataset("evals").to_arrow()
    assert isinstance(caught.value, IntegrityError)
    assert "cut or changed" in str(caught.value)


def test_a_grant_with_a_filter_or_a_mask_cannot_be_made_a_lease(published: Lab) -> None:
    """The owner is told when granting, and nothing is granted."""
    with pytest.raises(InvalidInput, match="--delivery lease: a row filter or a mask"):
        published.vault.grant("acme", "evals", ["id"], where="id < 5", delivery="lease")
    with pytest.raises(InvalidInput, match="--delivery lease: a row filter or a mask"):
        published.vault.grant("acme", "evals", ["prompt"], masks={"prompt": "redact"}, delivery="lease")
    with pytest.raises(InvalidInput, match="--delivery: use stream or lease"):
        published.vault.grant("acme", "evals", ["id"], delivery="post")
    assert published.vault.grants() == []


def test_rows_of_others_are_in_no_lease(lab: Lab) -> None:
    """Of rows that are assigned, the vendor's own shards are leased and no other."""
    table = rows(60).append_column("whose", pa.array(["acme", "globex"] * 30))
    lab.vault.publish("evals", table, assign_by="whose", shard_rows=10)
    lab.vault.grant("acme", "evals", ["id", "whose"], delivery="lease")
    with broker(lab.folder) as url:
        found = vault.connect(lab.profile("acme", url)).dataset("evals").to_arrow()
    assert found.num_rows == 30
    assert set(found.column("whose").to_pylist()) == {"acme"}


def test_a_dataset_without_rows_is_leased(lab: Lab) -> None:
    """Its schema comes, and no row."""
    lab.vault.publish("evals", rows(0))
    lab.vault.grant("acme", "evals", ["id", "prompt"], delivery="lease")
    with broker(lab.folder) as url:
        found = vault.connect(lab.profile("acme", url)).dataset("evals").to_arrow()
    assert (found.num_rows, found.column_names) == (0, ["id", "prompt"])


def test_ciphertext_is_served_whole_and_by_ranges(leased: Lab) -> None:
    """HEAD, GET, ranges from the front and the back, one that cannot be had, and one that is none."""
    parts = leased.broker_parts()
    page = _page(parts, leased.caller(parts, "acme"), direct=False)
    chunk = page.shards[0].chunks[0]
    http = urllib3.PoolManager(retries=False)
    with broker(leased.folder) as url:

        def get(value: str | None, method: str = "GET") -> urllib3.BaseHTTPResponse:
            return http.request(method, url + chunk.url, headers={"Range": value} if value else {})

        whole = get(None).data
        assert len(whole) == chunk.size
        assert (whole[:4], whole[-4:]) == (b"PARE", b"PARE")
        head = get(None, "HEAD")
        assert (head.status, head.headers["content-length"], head.headers["accept-ranges"]) == (
            200,
            str(chunk.size),
            "bytes",
        )
        for value, expected in (
            ("bytes=0-3", whole[:4]),
            ("bytes=10-", whole[10:]),
            ("bytes=-8", whole[-8:]),
            (f"bytes=5-{chunk.size + 100}", whole[5:]),
        ):
            answer = get(value)
            assert (answer.status, answer.data) == (206, expected)
            assert answer.headers["content-range"].endswith(f"/{chunk.size}")
        assert get(f"bytes={chunk.size}-").status == 416
        for other in ("bytes=0-1,4-5", "lines=1-2", "bytes=-", "bytes=5-2"):
            assert get(other).data == whole


def test_ciphertext_that_was_collected_is_refused_by_a_status(leased: Lab) -> None:
    """An address outlives its object where a rekey superseded that, and then gc ran; the answer is a problem."""
    parts = leased.broker_parts()
    chunk = _page(parts, leased.caller(parts, "acme"), direct=False).shards[0].chunks[0]
    leased.vault.rekey("acme")
    leased.vault.gc(grace=timedelta(0))
    with broker(leased.folder) as url:
        answer = urllib3.request("GET", url + chunk.url, retries=False)
    assert (answer.status, answer.json()["type"]) == (404, "urn:dsvault:not-granted")


@pytest.fixture
def on_s3(tmp_path: Path, moto: str, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A vault whose objects are in a bucket of their own."""
    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_ENDPOINT_URL", moto)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"lab-{tmp_path.name.replace('_', '-').lower()}-{vault.encoding.new_id()[:8]}"[-60:].strip("-")
    boto3.client("s3").create_bucket(Bucket=bucket)
    opened = vault.init(tmp_path / "lab", store=f"s3://{bucket}/vault")
    opened.add_vendor("acme")
    opened.publish("evals", rows(100), key="id", shard_rows=30)
    opened.grant("acme", "evals", _WHOLE, delivery="lease")
    return Lab(tmp_path / "lab", opened)


def test_a_store_with_addresses_of_its_own_is_read_straight(on_s3: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks come from presigned S3 addresses of 300 seconds at most; without a way there, through the broker."""
    parts = on_s3.broker_parts()
    page = _page(parts, on_s3.caller(parts, "acme"))
    urls = [chunk.url for shard in page.shards for chunk in shard.chunks]
    assert all(url.startswith("http://127.0.0.1") and 290 <= _seconds(url) <= 300 for url in urls)
    assert _page(parts, on_s3.caller(parts, "acme"), direct=False).shards[0].chunks[0].url.startswith("/v1/objects/")
    with broker(on_s3.folder) as url:
        client = vault.connect(on_s3.profile("acme", url))
        get, asked = client.connection.get, []

        def noting(address: str, size: int) -> tuple[int, bytes]:
            asked.append(address)
            return get(address, size)

        monkeypatch.setattr(client.connection, "get", noting)
        assert client.dataset("evals").to_arrow().column("id").to_pylist() == list(range(100))
        assert asked
        assert all("Signature" in address for address in asked)

        def cut_off(address: str, size: int) -> tuple[int, bytes]:
            if not address.startswith("/"):
                raise Unavailable("no way there")
            return get(address, size)

        monkeypatch.setattr(client.connection, "get", cut_off)
        assert client.dataset("evals").to_arrow().column("id").to_pylist() == list(range(100))


def test_a_store_without_tls_is_read_by_way_of_the_broker(on_s3: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that others could read along is not asked; the read goes on through the broker."""
    from dataclasses import replace

    from vault.client.datasets import LeasePage

    parse = LeasePage.parse

    def elsewhere(document: dict[str, object]) -> LeasePage:
        page = parse(document)
        shards = tuple(
            replace(shard, chunks=tuple(replace(c, url=c.url.replace("127.0.0.1", "192.0.2.1")) for c in shard.chunks))
            for shard in page.shards
        )
        return replace(page, shards=shards)

    monkeypatch.setattr(LeasePage, "parse", staticmethod(elsewhere))
    with broker(on_s3.folder) as url:
        client = vault.connect(on_s3.profile("acme", url))
        with pytest.raises(Unavailable, match="the lab's store is neither https"):
            client.connection.get("http://192.0.2.1/bucket/object", 10)
        assert client.dataset("evals").to_arrow().column("id").to_pylist() == list(range(100))


def _seconds(url: str) -> int:
    query = dict(pair.split("=", 1) for pair in url.partition("?")[2].split("&"))
    if "X-Amz-Expires" in query:
        return int(query["X-Amz-Expires"])
    return int(query["Expires"]) - int(vault.encoding.utcnow().timestamp())


def test_a_page_is_no_document_to_keep(leased: Lab) -> None:
    """An answer with keys is marked as one that nobody may store."""
    with broker(leased.folder) as url:
        client = vault.connect(leased.profile("acme", url))
        answer = client.connection.send("POST", "/v1/datasets/evals/lease", b"{}")
        assert answer.headers["cache-control"] == "no-store"
        assert json.loads(answer.data)["rows"] == 100
