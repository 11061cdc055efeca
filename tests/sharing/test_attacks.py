"""Attacks on shared files, each by itself: on addresses, on the spool, on hints, and on the log."""

import base64
import io
import json
import os
import time
import urllib.parse
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import urllib3

from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.reading import later
from tests.support.sharing import arrival, caller, entries, fetched, listed, objects, table_of, ticket_of
from tests.support.tables import rows
from vault import access, collect, scrub, spool
from vault.access import sharedfiles, spooling
from vault.access.plainfile import PlainFile
from vault.audit import Kind
from vault.client.http import Connection
from vault.delta import shape_of
from vault.encoding import utcnow
from vault.errors import (
    Abandoned,
    AuditError,
    Frozen,
    IntegrityError,
    InvalidInput,
    KmsError,
    LimitReached,
    NotGranted,
    Unauthenticated,
    Unavailable,
)
from vault.wire import FILES_PATH, SharedTable

# Addresses


def test_a_changed_address_gives_nothing(granted: Lab) -> None:
    """Each byte of a ticket is sealed: whichever is changed, it is none."""
    parts = granted.broker_parts()
    (file, *_) = listed(parts, arrival(granted, parts))
    ticket = ticket_of(file)
    data = base64.urlsafe_b64decode(ticket + "=" * (-len(ticket) % 4))
    for at in {0, 5, 16, 31, 32, 43, 44, 100, len(data) - 17, len(data) - 1}:
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(NotGranted):
            access.shared_file(parts, base64.urlsafe_b64encode(changed).decode().rstrip("="), "test")
    for other in ("", "-", "=", ticket[:-1], ticket + "A", "é", ticket[::-1], "A" * 4096):
        with pytest.raises(NotGranted):
            access.shared_file(parts, other, "test")
    assert not list(entries(granted, "shared file read"))


def test_an_address_of_another_vendor_opens_nothing_of_ones_own(granted: Lab) -> None:
    """A ticket with another vendor's id on it is of nobody."""
    parts = granted.broker_parts()
    (file, *_) = listed(parts, arrival(granted, parts))
    globex = next(each.id for each in granted.vault.vendors() if each.name == "globex")
    data = base64.urlsafe_b64decode(ticket_of(file) + "==")
    moved = base64.urlsafe_b64encode(bytes.fromhex(globex) + data[16:]).decode().rstrip("=")
    with pytest.raises(NotGranted):
        access.shared_file(parts, moved, "test")


def test_a_broker_of_other_vendors_serves_no_address(granted: Lab) -> None:
    """``serve --vendors`` holds for addresses too, in the sentence of any that is none."""
    parts = granted.broker_parts()
    (file, *_) = listed(parts, arrival(granted, parts))
    with pytest.raises(NotGranted, match="not one that was handed out"):
        access.shared_file(parts, ticket_of(file), "test", vendors=frozenset({"0" * 32}))


def test_a_leases_address_is_none_of_a_file(published: Lab) -> None:
    """Nor the other way round: what seals the two is bound to what each is."""
    published.vault.grant("acme", "evals", ["id", "prompt"], delivery="lease")
    parts = published.broker_parts()
    who = arrival(published, parts)
    page = access.lease_page(parts, who, access.Request("evals", lease=True), direct=False)
    with pytest.raises(NotGranted):
        access.shared_file(parts, page.shards[0].chunks[0].url.removeprefix("/v1/objects/"), "test")
    with pytest.raises(NotGranted):
        access.leased_object(parts, ticket_of(listed(parts, who)[0]))


def test_an_address_ends(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time it gives nothing, and is not told from one that never was."""
    parts = granted.broker_parts()
    (file, *_) = listed(parts, arrival(granted, parts))
    assert fetched(parts, file)
    later(monkeypatch, timedelta(hours=1, seconds=1))
    with pytest.raises(NotGranted):
        fetched(parts, file)


def test_an_address_ends_with_the_grant(published: Lab) -> None:
    """A file is handed out for no longer than what it stands on lasts."""
    published.vault.grant("acme", "evals", ["id"], expires=timedelta(minutes=5))
    parts = published.broker_parts()
    (file, *_) = listed(parts, arrival(published, parts))
    assert file.until <= parts.clock() + timedelta(minutes=5)


def test_an_address_is_good_where_its_credential_is(granted: Lab) -> None:
    """A credential of some networks hands out addresses that other networks cannot use."""
    parts = granted.broker_parts()
    profile = granted.vault.issue_credential("acme", bearer=True, networks=["192.0.2.0/24"]).profile
    who = access.Arrival(access.authenticate(parts, profile.token, "192.0.2.7"))
    (file, *_) = listed(parts, who)
    assert fetched(parts, file, "192.0.2.9")
    with pytest.raises(NotGranted, match="not one that was handed out"):
        fetched(parts, file, "198.51.100.1")


@pytest.mark.parametrize("how", ["revoke", "freeze", "rekey", "credential", "delete", "erase"])
def test_nothing_more_is_read_once_it_is_ended(granted: Lab, how: str) -> None:
    """Each request looks anew: a listing, a table and a file that was handed out are refused, and logged as no read."""
    parts = granted.broker_parts()
    profile = granted.vault.issue_credential("acme", bearer=True).profile
    who = access.Arrival(access.authenticate(parts, profile.token, "test"))
    (file, *_) = listed(parts, who)
    assert fetched(parts, file)
    _end(granted, how, profile.token.credential)
    parts = granted.broker_parts()
    with pytest.raises((NotGranted, Frozen)):
        fetched(parts, file)
    assert len(list(entries(granted, "shared file read"))) == 1
    if how in {"rekey", "erase"}:
        return  # the grant lives: what is listed now is under the new keys, or without the erased row
    with pytest.raises((NotGranted, Frozen, Unauthenticated)):
        listed(parts, access.Arrival(access.authenticate(parts, profile.token, "test")))


def _end(lab: Lab, how: str, credential: str) -> None:
    match how:
        case "revoke":
            lab.vault.revoke(lab.vault.grants()[0].grant.id)
        case "freeze":
            lab.vault.freeze("acme")
        case "rekey":
            lab.vault.rekey(vendor="acme")
        case "credential":
            lab.vault.revoke_credential(credential)
        case "delete":
            lab.vault.delete("evals")
        case "erase":
            lab.vault.erase("evals", where="id = 0")


def test_a_read_stops_where_a_freeze_comes(published: Lab) -> None:
    """Between two pieces of a file the head is looked at again."""
    big = pa.table({"id": pa.array(range(30)), "blob": [os.urandom(400_000) for _ in range(30)]})
    published.vault.publish("big", big, key="id")
    published.vault.grant("acme", "big", ["id", "blob"])
    parts = published.broker_parts()
    (file,) = listed(parts, arrival(published, parts), "big")
    found = access.shared_file(parts, ticket_of(file), "test")
    pieces = found.pieces(0, found.size)
    assert len(next(pieces)) < found.size
    published.vault.freeze("acme")
    parts.heads.vendor(found.vendor, max_age=-1)
    with pytest.raises(Frozen):
        list(pieces)


def test_a_listing_stops_where_a_freeze_comes(granted: Lab) -> None:
    """Between two files the head is looked at again, and no further address leaves."""
    parts = granted.broker_parts()
    who = arrival(granted, parts)
    files = access.shared_files(parts, who, SharedTable.of("evals"), access.Hints()).files
    next(files)
    granted.vault.freeze("acme")
    parts.heads.vendor(who.caller.vendor, max_age=-1)
    with pytest.raises(Frozen):
        next(files)
    assert len(list(entries(granted, "shared file handed out"))) == 1


def test_nothing_is_built_for_who_has_gone_away(granted: Lab) -> None:
    """A client that is not there any more costs no further file."""
    parts = granted.broker_parts()
    who, gone = arrival(granted, parts), []
    files = access.shared_files(parts, who, SharedTable.of("evals"), access.Hints(), gone=lambda: bool(gone)).files
    next(files)
    gone.append(True)
    with pytest.raises(Abandoned):
        next(files)
    assert len(objects(granted)) == 1


def test_a_host_header_moves_no_address(granted: Lab) -> None:
    """Addresses are of the broker's own words: whoever names another host is not led there."""
    with broker(granted.folder) as endpoint:
        acme = caller(granted, endpoint)
        for headers in ({"Host": "evil.example"}, {"X-Forwarded-Host": "evil.example"}, {"Forwarded": "host=evil"}):
            answer = acme.query("default.evals", **headers)
            assert answer.status == 200
            assert b"evil" not in answer.data
            assert answer.data.count(endpoint.encode()) == 4


def test_an_address_is_of_the_configured_endpoint(granted: Lab) -> None:
    """Where a broker is told what it is called, addresses say that."""
    with broker(granted.folder, "--endpoint", "https://lab.example:8443") as endpoint:
        answer = caller(granted, endpoint).query("default.evals")
        assert answer.data.count(b"https://lab.example:8443/delta-sharing/files/") == 4


def test_a_key_that_proves_requests_hands_out_no_address(granted: Lab) -> None:
    """A credential that is bound to a key gets none: an address would be good without the key. Its proof is used up."""
    with broker(granted.folder) as endpoint:
        profile = granted.vault.issue_credential("acme", endpoint=endpoint).profile
        line = Connection(profile, None, None)
        assert line.key is not None
        share = "/delta-sharing/shares/dsvault"
        asked = [("GET", "/delta-sharing/shares", None), ("GET", f"{share}/all-tables", None)]
        asked += [("POST", f"{share}/schemas/default/tables/evals/query", b"{}")]
        for method, path, body in asked:
            proof = line.key.prove(method, endpoint + path, profile.token.text, utcnow())
            headers = {"Authorization": profile.token.header(), "DPoP": proof, "Content-Type": "application/json"}
            answer = urllib3.request(method, endpoint + path, headers=headers, body=body, retries=False)
            assert (answer.status, answer.json()["errorCode"]) == (400, "INVALID"), path
            assert "issued with --bearer" in answer.json()["message"]
    assert not list(entries(granted, "shared files asked for"))


# The spool


def test_no_row_is_in_the_store_in_the_clear(granted: Lab) -> None:
    """Neither a value, nor a column's name, nor the magic of a plain Parquet file."""
    parts = granted.broker_parts()
    files = listed(parts, arrival(granted, parts))
    assert all(fetched(parts, file)[:4] == b"PAR1" for file in files)
    assert len(objects(granted)) == 4
    for place in objects(granted):
        data = place.read_bytes()
        assert not any(word in data for word in (b"PAR1", b"prompt", b"lang", b"evals", b"acme"))


def test_a_spooled_file_needs_the_filters_key_as_well(published: Lab) -> None:
    """Who may unwrap the columns that leave, and not the one that the row filter reads, has no key to the file."""
    published.vault.grant("acme", "evals", ["id"], where="lang = 'en'")
    parts = published.broker_parts()
    (file, *_) = listed(parts, arrival(published, parts))
    found = access.shared_file(parts, ticket_of(file), "test")
    assert len(found._keys) == 2
    bound = spooling.spool_bound(parts, found.vendor, found._ticket.object, found._ticket.binding)
    for keys in (found._keys[:1], found._keys[1:], found._keys[::-1]):
        less = sharedfiles.spool_key([parts.keyring.open(each) for each in keys], found._salt, bound)
        data = parts.store.get_range(found._ticket.object, found._ticket.head, found._ticket.head + file.size + 16)
        with pytest.raises(IntegrityError):
            spool.window(file.size, 0, file.size).open(data, less, bound)


def test_a_kms_that_refuses_a_key_leaves_files_closed(granted: Lab) -> None:
    """What was spooled opens for nobody whose KMS identity may not unwrap its keys any more."""
    parts = granted.broker_parts()
    (file, *_) = listed(parts, arrival(granted, parts))

    class Refusing:
        def __init__(self, kms: Any) -> None:
            self._kms = kms

        def __getattr__(self, name: str) -> Any:
            return getattr(self._kms, name)

        def unwrap(self, key: str, wrapped: bytes, context: Any) -> bytes:
            if context["dsvault:group"] not in {"manifest", "metadata"}:
                raise KmsError("the KMS refused")
            return bytes(self._kms.unwrap(key, wrapped, context))

    other = granted.broker_parts(kms_wrap=Refusing)
    found = access.shared_file(other, ticket_of(file), "test")
    with pytest.raises(KmsError):
        next(found.pieces(0, found.size))


def test_two_that_build_the_same_file_share_no_key(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A race seals twice under keys of their own, since each object has its own salt; the loser reads the winner's."""
    parts = granted.broker_parts()
    who = arrival(granted, parts)
    sealed: list[tuple[bytes, bytes]] = []
    real = spool.sealed

    def noted(facts: Any, facts_key: bytes, data: Any, key: Any, salt: bytes, bound: bytes) -> Any:
        sealed.append((facts_key, key))
        return real(facts, facts_key, data, key, salt, bound)

    monkeypatch.setattr(spool, "sealed", noted)
    first = listed(parts, who)
    winners = [place.read_bytes() for place in objects(granted)]
    found = spooling.Spool._found

    looks: list[str] = []

    def missing(self: Any, name: str, binding: str) -> Any:
        looks.append(name)
        if len(looks) == 2:
            monkeypatch.setattr(spooling.Spool, "_found", found)
        raise spooling.NotFound("not yet")

    monkeypatch.setattr(spooling.Spool, "_found", missing)
    second = listed(parts, who, limit=1)
    assert [place.read_bytes() for place in objects(granted)] == winners
    assert len(sealed) == 5
    keys = [key for pair in sealed for key in pair]
    assert len(set(keys)) == len(keys)
    assert fetched(parts, second[0]) == fetched(parts, first[0])


# Hints


def test_hints_tell_nothing_of_hidden_rows(published: Lab) -> None:
    """Under a row filter the same files come whatever is hinted at: statistics speak of rows that the filter hides."""
    # Of ids below 30 the filter leaves one row; hidden ones beside it go up to 29.
    published.vault.grant("acme", "evals", ["id", "prompt"], where="id = 0 OR id >= 60")
    parts = published.broker_parts()
    who = arrival(published, parts)
    every = [file.id for file in listed(parts, who)]
    assert len(every) == 3
    for number in (0, 5, 29, 35, 70):
        texts = (f"id = {number}",)
        document = _equal("id", number)
        assert [file.id for file in listed(parts, who, texts=texts)] == every
        assert [file.id for file in listed(parts, who, document=document)] == every


def test_a_file_tells_nothing_of_the_rows_that_stood_between_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows are the same bytes, in whatever batches they come: where one ends, hidden rows were counted too."""
    monkeypatch.setattr("vault.access.plainfile.GROUP_BYTES", 2 << 20)
    texts = pa.array([f"{number} " * 400 for number in range(5000)])  # several pages in each row group
    table, files = rows(5000).append_column("long", texts), []
    for cut in (5000, 1700, 611, 7):
        file = PlainFile(shape_of(table.schema))
        for batch in table.to_batches(max_chunksize=cut):
            file.add(batch)
        files.append(bytes(file.end()))
    assert pq.ParquetFile(io.BytesIO(files[0])).num_row_groups > 2
    assert len(set(files)) == 1


def test_hints_tell_nothing_of_what_is_under_a_mask(published: Lab) -> None:
    """A masked column's statistics are of its values: a hint on it is passed over."""
    published.vault.grant("acme", "evals", ["id", "prompt"], masks={"prompt": "redact"})
    parts = published.broker_parts()
    assert len(listed(parts, arrival(published, parts), texts=("prompt = 'prompt 3'",))) == 4


def test_hints_tell_nothing_of_columns_that_are_not_granted(published: Lab) -> None:
    """A column that is there and not granted is as one that is not there."""
    published.vault.grant("acme", "evals", ["prompt"])
    parts = published.broker_parts()
    who = arrival(published, parts)
    assert len(listed(parts, who, texts=("id = 3",))) == len(listed(parts, who, texts=("nothing = 3",))) == 4


def test_hints_tell_nothing_of_rows_that_a_limit_keeps_back(published: Lab) -> None:
    """Else whoever may have a row in all would find the greatest id by halves, without one being counted."""
    published.vault.grant("acme", "evals", ["id"], limits={"rows": 1000})
    parts = published.broker_parts()
    assert len(listed(parts, arrival(published, parts), texts=("id > 1000",))) == 4


def test_hints_leave_shards_out_where_nothing_is_hidden(published: Lab) -> None:
    """Without a filter they do what they are for, and the files that are left are the very same."""
    published.vault.grant("acme", "evals", ["id", "prompt"])
    parts = published.broker_parts()
    who = arrival(published, parts)
    every = [file.id for file in listed(parts, who)]
    assert [file.id for file in listed(parts, who, texts=("id = 35",))] == every[1:2]
    assert [file.id for file in listed(parts, who, document=_equal("id", 65))] == every[2:3]
    assert [file.id for file in listed(parts, who, texts=("id > 1000",))] == []
    for odd in ("id = ", "id LIKE 'x'", "rand() < 1", "x" * 5000, "id = 3; drop table x"):
        assert [file.id for file in listed(parts, who, texts=(odd,))] == every
    for odd in ("{", "[]", "7", '{"op": "equal"}', '{"op": "and", "children": [7]}', "[" * 10_000, '{"op": 1}'):
        assert [file.id for file in listed(parts, who, document=odd)] == every


def _equal(name: str, number: int) -> str:
    column = {"op": "column", "name": name, "valueType": "long"}
    literal = {"op": "literal", "value": str(number), "valueType": "long"}
    return json.dumps({"op": "equal", "children": [column, literal]})


# The log


def test_without_an_entry_no_byte_leaves(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the log cannot be written a file is not read, and no key is opened for it."""
    parts = granted.broker_parts()
    (file, *_) = listed(parts, arrival(granted, parts))
    parts = granted.broker_parts()
    found = access.shared_file(parts, ticket_of(file), "test")
    opened: list[str] = []
    real = type(parts.keyring).open

    def noted(self: Any, key: Any) -> bytes:
        opened.append(key.scope.group)
        return real(self, key)

    def broken(*_args: Any) -> Any:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(type(parts.keyring), "open", noted)
    monkeypatch.setattr(type(parts.catalog), "submit", broken)
    with pytest.raises(AuditError):
        next(found.pieces(0, found.size))
    assert not opened


def test_without_an_entry_nothing_is_listed(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the log cannot be written no file is built, and no address leaves."""
    parts = granted.broker_parts()
    who = arrival(granted, parts)

    def broken(*_args: Any) -> Any:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(type(parts.catalog), "submit", broken)
    with pytest.raises(AuditError):
        listed(parts, who)
    assert not objects(granted)


def test_an_entry_is_there_before_the_first_byte(granted: Lab) -> None:
    """It says who had which bytes of which rows, when nothing has left yet."""
    parts = granted.broker_parts()
    (file, *_) = listed(parts, arrival(granted, parts))
    found = access.shared_file(parts, ticket_of(file), "192.0.2.7")
    assert not list(entries(granted, Kind.FILE_READ.value))
    next(found.pieces(4, 12))
    (told,) = entries(granted, Kind.FILE_READ.value)
    assert (told["range"], told["bytes"], told["size"]) == ([4, 12], 8, file.size)
    assert (told["address"], told["rows"], told["columns"]) == ("192.0.2.7", 15, ["id", "prompt", "lang"])
    assert told["served"][0]["shard"] == 0


def test_a_limit_is_charged_before_an_address_leaves(published: Lab) -> None:
    """Rows are counted whole for each address, also of a file that was built before; the rest is refused."""
    published.vault.grant("acme", "evals", ["id"], limits={"rows": 65})
    parts = published.broker_parts()
    who = arrival(published, parts)
    files = access.shared_files(parts, who, SharedTable.of("evals"), access.Hints()).files
    assert [next(files).rows, next(files).rows] == [30, 30]
    with pytest.raises(LimitReached, match="less than a file"):
        next(files)
    with pytest.raises(LimitReached, match="less than a file"):
        listed(parts, who)
    # A read as a stream has the rest.
    delivery = access.open_delivery(parts, who, access.Request("evals"))
    assert next(delivery.batches).num_rows == 5


def test_a_type_that_cannot_be_shared_is_refused_by_name(published: Lab) -> None:
    """And not left out: a table without it would be another table."""
    table = pa.table({"id": [1], "at": pa.array([1], pa.time64("us")), "for": pa.array([1], pa.duration("s"))})
    published.vault.publish("odd", table)
    published.vault.grant("acme", "odd", ["id", "at"])
    parts = published.broker_parts()
    with pytest.raises(InvalidInput, match=r"column 'at' is time64\[us\]"):
        listed(parts, arrival(published, parts), "odd")


def test_a_refused_request_is_logged(granted: Lab) -> None:
    """Under the name that was asked for, like any other."""
    parts = granted.broker_parts()
    with pytest.raises(NotGranted):
        listed(parts, arrival(granted, parts), "secret")
    assert list(entries(granted, "request refused"))[-1]["dataset"] == "secret"


def test_answers_to_false_addresses_take_as_long(granted: Lab) -> None:
    """One that is no ticket and one whose vendor is frozen are answered at a multiple of 20 ms, so that time says nothing."""
    with broker(granted.folder) as endpoint:
        (file, *_) = caller(granted, endpoint).files("default.evals")
        path = urllib.parse.urlparse(file["url"]).path
        changed = path[:-6] + ("AAAAAA" if path[-6:] != "AAAAAA" else "BBBBBB")
        for asked in (FILES_PATH + "x" * 200, changed):
            began = time.perf_counter()
            answer = urllib3.request("GET", endpoint + asked, retries=False)
            took = time.perf_counter() - began
            assert (answer.status, set(answer.json())) == (404, {"errorCode", "message"})
            assert took > 0.018


def test_rows_of_a_file_are_the_grants_alone(granted: Lab) -> None:
    """Neither its statistics nor its dictionaries know of a row that the filter hides, or a column beside."""
    parts = granted.broker_parts()
    for file in listed(parts, arrival(granted, parts)):
        data = fetched(parts, file)
        table = table_of(data)
        assert table.column_names == ["id", "prompt", "lang"]
        assert set(table["lang"].to_pylist()) == {"en"}
        assert b"'de'" not in data
        assert b"answer" not in data
        statistics = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(0).statistics
        assert (statistics.min, statistics.max) == (min(table["id"].to_pylist()), max(table["id"].to_pylist()))


def test_a_dictionary_column_leaves_without_hidden_values(published: Lab) -> None:
    """Values that only hidden rows have are in no dictionary page."""
    kinds = pa.array(["shown" if number % 2 else "planted-hidden" for number in range(40)]).dictionary_encode()
    published.vault.publish("kinds", pa.table({"id": range(40), "kind": kinds}), key="id")
    published.vault.grant("acme", "kinds", ["id", "kind"], where="kind = 'shown'")
    parts = published.broker_parts()
    (file,) = listed(parts, arrival(published, parts), "kinds")
    data = fetched(parts, file)
    assert b"planted" not in data
    assert table_of(data)["kind"].to_pylist() == ["shown"] * 20


def test_gc_takes_files_whose_time_is_over(granted: Lab) -> None:
    """What an address may still be good for stays; two lives later all of it is gone."""
    parts = granted.broker_parts()
    listed(parts, arrival(granted, parts))
    granted.vault.gc()
    assert len(objects(granted)) == 4
    later = replace(granted.vault.parts, clock=lambda: utcnow() + timedelta(hours=2, seconds=1))
    assert collect.collect(later).objects >= 4
    assert not objects(granted)


@pytest.mark.parametrize("how", ["erased", "deleted", "rekeyed"])
def test_gc_without_grace_takes_files_of_before(granted: Lab, how: str) -> None:
    """Whoever has an old catalog could open what was erased there; with its grace time gc leaves them as it does chunks."""
    parts, lab = granted.broker_parts(), granted.vault
    listed(parts, arrival(granted, parts))
    if how == "erased":
        lab.erase("evals", keys=[2])
    elif how == "deleted":
        lab.delete("evals")
    else:
        lab.rekey(vendor="acme")
    lab.gc()
    assert len(objects(granted)) == 4
    lab.gc(timedelta(0))
    assert objects(granted) == []


def test_check_counts_the_files_that_gc_may_remove(granted: Lab) -> None:
    """Those whose time is over are garbage as chunks are."""
    parts = granted.broker_parts()
    listed(parts, arrival(granted, parts))
    assert granted.vault.check().garbage == []
    later = replace(granted.vault.parts, clock=lambda: utcnow() + timedelta(hours=3))
    assert len(scrub.check(later).garbage) == 4


def test_containment_leaves_no_spooled_file(granted: Lab) -> None:
    """After it what was spooled for the vendor is under keys that are nowhere, and gone from the store."""
    parts = granted.broker_parts()
    listed(parts, arrival(granted, parts))
    granted.vault.contain("acme")
    assert not objects(granted)


def test_a_listing_has_what_can_be_read(published: Lab) -> None:
    """A table is there with its grant, and gone with it."""
    parts = published.broker_parts()
    who = arrival(published, parts)
    assert access.list_tables(parts, who.caller) == []
    grant = published.vault.grant("acme", "evals", ["id"])
    assert [each.dataset for each in access.list_tables(published.broker_parts(), who.caller)] == ["evals"]
    published.vault.revoke(grant.id)
    assert access.list_tables(published.broker_parts(), who.caller) == []
