"""The real client of Delta Sharing against a real broker."""

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import delta_sharing
import duckdb
import fsspec
import pyarrow as pa
import pytest
import urllib3
from pyarrow.dataset import dataset
from requests.exceptions import ChunkedEncodingError, HTTPError

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.moulds import Anew
from tests.support.sharing import COLUMNS, Caller, caller, entries, everything, plain, rows_of
from tests.support.tables import rows

# The client's own: a copy that pandas need not make, and sessions that it leaves to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore")


@dataclass
class Shared:
    """A vault whose broker runs, and a vendor with its profile."""

    lab: Lab
    endpoint: str
    acme: Caller


@pytest.fixture(scope="module")
def shared(moulds: Anew, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Three shards of everything under a row filter, the same with masks, and a dataset with nothing held back."""
    folder: Path = tmp_path_factory.mktemp("sharing") / "lab"
    lab = Lab(folder, moulds.vault("vendors", folder, None))
    lab.vault.publish("my.evals", everything(), key="id", shard_rows=30)
    lab.vault.grant("acme", "my.evals", COLUMNS, where="lang = 'en' AND answer <> 'answer 4'", purpose="review")
    lab.vault.publish("masked", rows(40), key="id", shard_rows=40)
    lab.vault.grant("acme", "masked", ["id", "prompt", "meta.source"], masks={"prompt": "hash"})
    lab.vault.publish("whole", rows(100), key="id", shard_rows=30)
    lab.vault.grant("acme", "whole", ["id", "prompt"])
    with broker(folder) as endpoint, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield Shared(lab, endpoint, caller(lab, endpoint))


def test_a_bearer_profile_opens_the_tables(shared: Shared) -> None:
    """What ``credential issue --bearer`` writes is a Delta Sharing profile, and lists what is granted."""
    client = delta_sharing.SharingClient(str(shared.acme.profile))
    (share,) = client.list_shares()
    assert share.name == "dsvault"
    assert [schema.name for schema in client.list_schemas(share)] == ["default"]
    names = [table.name for table in client.list_all_tables()]
    assert names == ["masked", "my~evals", "whole"]
    assert [table.name for table in client.list_tables(client.list_schemas(share)[0])] == names


def test_a_data_frame_has_the_rows_that_a_stream_has(shared: Shared) -> None:
    """Nested columns, nulls, time stamps, decimals and a row filter over three shards: equal, and nothing beside."""
    frame = delta_sharing.load_as_pandas(shared.acme.url("default.my~evals"))
    own = vault.connect(shared.acme.profile).dataset("my.evals").to_arrow()
    assert list(frame.columns) == COLUMNS
    assert rows_of(frame) == [{key: plain(value) for key, value in row.items()} for row in own.to_pylist()]
    assert len(frame) == 44
    assert str(frame["when"].dtype) == "datetime64[us, UTC]"
    assert str(frame["local"].dtype) == "datetime64[ms]"


def test_a_masked_column_leaves_masked(shared: Shared) -> None:
    """A hash is the one that a stream has, and of a struct there is the granted field."""
    frame = delta_sharing.load_as_pandas(shared.acme.url("default.masked"))
    own = vault.connect(shared.acme.profile).dataset("masked").to_arrow().to_pylist()
    assert rows_of(frame) == own
    assert not any("prompt" in row["prompt"] for row in own)
    assert set(own[0]["meta"]) == {"source"}


@pytest.mark.parametrize(("limit", "files"), [(0, 0), (1, 1), (30, 1), (31, 2), (1000, 4)])
def test_a_limit_takes_as_few_files_as_do(shared: Shared, limit: int, files: int) -> None:
    """So many rows come, and no more shards are handed out than hold them."""
    frame = delta_sharing.load_as_pandas(shared.acme.url("default.whole"), limit=limit)
    assert len(frame) == min(limit, 100)
    assert len(shared.acme.files("default.whole", {"limitHint": limit})) == files


def test_batches_come_as_well(shared: Shared) -> None:
    """The client's other way to read a file."""
    frame = delta_sharing.load_as_pandas(shared.acme.url("default.whole"), convert_in_batches=True)
    assert frame["id"].tolist() == list(range(100))


def test_version_and_metadata_are_those_of_the_table(shared: Shared) -> None:
    """The version is the dataset's, and asking for it by number, or by a time since, gives the same."""
    url = shared.acme.url("default.whole")
    assert delta_sharing.get_table_version(url) == 1
    assert delta_sharing.get_table_version(url, "2020-01-01T00:00:00Z") == 1
    assert delta_sharing.get_table_metadata(url).partition_columns == []
    assert delta_sharing.get_table_protocol(url).min_reader_version == 1
    assert len(delta_sharing.load_as_pandas(url, version=1)) == 100
    assert len(delta_sharing.load_as_pandas(url, timestamp="2126-01-01T00:00:00Z")) == 100


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"version": 0}, "only the present one is shared, which is 1"),
        ({"timestamp": "2020-01-01T00:00:00Z"}, "only the present one is shared, which is 1"),
        ({"use_delta_format": True}, "responseformat=parquet only"),
    ],
)
def test_what_is_not_shared_is_refused_in_a_sentence(shared: Shared, asked: dict, sentence: str) -> None:
    """Another version, and the other response format."""
    with pytest.raises(HTTPError, match="400") as refused:
        delta_sharing.load_as_pandas(shared.acme.url("default.whole"), **asked)
    assert sentence in str(refused.value).replace("'\n", "").replace("             '", "")


def test_changes_are_not_shared(shared: Shared) -> None:
    """The change feed is refused in a sentence."""
    with pytest.raises(HTTPError, match="changes are not shared"):
        delta_sharing.load_table_changes_as_pandas(shared.acme.url("default.whole"), starting_version=0)


def test_a_table_that_is_not_granted_is_not_there(shared: Shared) -> None:
    """Neither a name that is nobody's nor a share of another name: one answer for all."""
    said = set()
    for url in ("default.other", "default.secret", f"grant-{'0' * 32}.whole", "other.whole"):
        with pytest.raises(HTTPError, match="404") as refused:
            delta_sharing.load_as_pandas(shared.acme.url(url))
        said.add(str(refused.value).partition("Response from server")[2])
    assert len(said) == 1


def test_a_wrong_token_is_refused(shared: Shared, tmp_path: Path) -> None:
    """With the status that the client knows."""
    text = shared.acme.profile.read_text()
    token = shared.acme.headers["Authorization"].removeprefix("Bearer ")
    wrong = token[:-4] + ("AAA=" if token[-4:] != "AAA=" else "BBB=")
    (tmp_path / "wrong.share").write_text(text.replace(token, wrong))
    with pytest.raises(HTTPError, match="401"):
        delta_sharing.SharingClient(str(tmp_path / "wrong.share")).list_all_tables()


def test_an_address_is_read_whole_and_in_ranges_again_and_again(shared: Shared) -> None:
    """A file's address is one: HEAD, the whole, and ranges, again and again, without a token."""
    (file, *_) = shared.acme.files("default.my~evals")
    head = urllib3.request("HEAD", file["url"])
    assert (head.status, int(head.headers["content-length"])) == (200, file["size"])
    assert head.headers["accept-ranges"] == "bytes"
    ranged = urllib3.request("HEAD", file["url"], headers={"Range": "bytes=0-3"})
    assert (ranged.status, int(ranged.headers["content-length"])) == (200, file["size"])  # ranges are of a GET alone
    whole = urllib3.request("GET", file["url"]).data
    assert len(whole) == file["size"]
    assert whole[:4] == whole[-4:] == b"PAR1"
    for first, last in ((0, 3), (4, 999), (len(whole) - 8, len(whole) - 1)):
        part = urllib3.request("GET", file["url"], headers={"Range": f"bytes={first}-{last}"})
        assert (part.status, part.data) == (206, whole[first : last + 1])
    beyond = urllib3.request("GET", file["url"], headers={"Range": f"bytes={len(whole)}-"})
    assert beyond.status == 416
    assert set(beyond.json()) == {"errorCode", "message"}


def test_duckdb_reads_the_files_by_their_addresses(shared: Shared) -> None:
    """As a dataset of Arrow's over HTTP, of which it asks for columns and rows: equal to what a stream has."""
    urls = [file["url"] for file in shared.acme.files("default.my~evals")]
    files = dataset(urls, format="parquet", filesystem=fsspec.filesystem("http"))
    with duckdb.connect() as connection:
        connection.register("files", files)
        found = connection.execute("SELECT id, meta.source FROM files ORDER BY id").fetchall()
    own = vault.connect(shared.acme.profile).dataset("my.evals").to_arrow().to_pylist()
    assert found == [(row["id"], row["meta"] and row["meta"]["source"]) for row in own]


def test_each_read_is_in_the_log(shared: Shared) -> None:
    """The request, each address, and each GET with its columns and rows, in that order."""
    before = len(list(shared.lab.vault.audit_entries()))
    delta_sharing.load_as_pandas(shared.acme.url("default.my~evals"))
    new = [entry for number, entry in shared.lab.vault.audit_entries() if number > before]
    kinds = [entry.kind.value for entry in new if entry.kind.value != "data keys opened"]
    assert kinds[:2] == ["shared files asked for", "shared file handed out"]
    assert kinds.count("shared file handed out") == 3
    read = [entry.fields for entry in new if entry.kind.value == "shared file read"]
    assert {tuple(fields["columns"]) for fields in read} == {tuple(COLUMNS)}
    assert {fields["shards"][0][0] for fields in read} == {0, 1, 2}
    assert {fields["purpose"] for fields in read} == {"review"}
    every = {number: entry.fields for number, entry in shared.lab.vault.audit_entries()}
    for fields in read:
        # Where it was read within the last minute, the entry of then says which rows.
        told = every[fields["again"]] if "again" in fields else fields
        assert told["shards"] == fields["shards"]
        assert told["served"][0].keys() >= {"shard"}, "a filter narrows"


def test_a_grant_that_runs_out_breaks_the_listing_off(shared: Shared) -> None:
    """What fails behind the first file ends the connection, and the client raises and has no shorter table."""
    shared.lab.vault.publish("limited", rows(90), key="id", shard_rows=30)
    shared.lab.vault.grant("acme", "limited", ["id"], limits={"rows": 70})
    url = shared.acme.url("default.limited")
    assert len(delta_sharing.load_as_pandas(url, limit=10)) == 10
    with pytest.raises((ChunkedEncodingError, ConnectionError)):
        delta_sharing.load_as_pandas(url)
    # 30 and 30 rows were handed out; what is left is less than any file, and is refused before an answer begins.
    with pytest.raises(HTTPError, match="403") as refused:
        delta_sharing.load_as_pandas(url)
    assert "LIMIT_REACHED" in str(refused.value)
    handed = [fields for fields in entries(shared.lab, "shared file handed out") if fields["dataset"] == "limited"]
    assert [fields["rows"] for fields in handed] == [30, 30]


def test_another_broker_reads_what_one_spooled(shared: Shared) -> None:
    """Of two brokers of a vault either serves an address of the other, and what was built once is not built again."""
    files = shared.acme.files("default.my~evals")
    with broker(shared.lab.folder) as other:
        for file in files:
            here = urllib3.request("GET", file["url"]).data
            there = urllib3.request("GET", file["url"].replace(shared.endpoint, other)).data
            assert here == there
        again = Caller(shared.acme.profile, other).files("default.my~evals")
    assert [each["id"] for each in again] == [each["id"] for each in files]
    assert all(each["url"].startswith(other) for each in again)
    objects = [each for each in (shared.lab.folder / "store" / "spool").rglob("*") if each.is_file()]
    assert len(objects) == len({each.name for each in objects})


def test_an_expired_credential_lists_nothing(shared: Shared) -> None:
    """And what its profile says of its end is what the client expects there."""
    soon = caller(shared.lab, shared.endpoint, expires=timedelta(seconds=1))
    time.sleep(1.2)
    with pytest.raises(HTTPError, match="401|expired"):
        delta_sharing.SharingClient(str(soon.profile)).list_all_tables()


def test_a_table_without_rows_is_empty(shared: Shared) -> None:
    """No file comes, and the client makes an empty frame of the schema."""
    table = pa.table({"id": pa.array([], pa.int64()), "note": pa.array([], pa.string())})
    shared.lab.vault.publish("empty", table)
    shared.lab.vault.grant("acme", "empty", ["id", "note"])
    frame = delta_sharing.load_as_pandas(shared.acme.url("default.empty"))
    assert (list(frame.columns), len(frame)) == (["id", "note"], 0)
