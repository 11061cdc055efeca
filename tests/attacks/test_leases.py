"""Attacks on leases: keys that should not go out, addresses that are not one's own, and pages after the end."""

import base64
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import urllib3

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.reading import later
from vault import access, grants
from vault.client import connect, delegate
from vault.errors import Frozen, InvalidInput, NotGranted
from vault.owner import Vault
from vault.policy import Request
from vault.wire import OBJECTS_PATH, LeasePage
from vault.workings.parts import Parts

pytestmark = pytest.mark.both_catalogs


def _page(parts: Parts, caller: access.Caller, cursor: bytes | None = None, **request: object) -> LeasePage:
    return access.lease_page(parts, caller, Request("evals", lease=True, **request), cursor, most_bytes=1)  # type: ignore[arg-type]


@pytest.fixture
def leased(cast: Callable[..., Lab]) -> Lab:
    """A vault where acme may lease two columns."""
    return cast(_leased, "published")


def _leased(opened: Vault) -> None:
    opened.grant("acme", "evals", ["id", "prompt"], delivery="lease")


def test_a_stream_grant_leases_nothing(granted: Lab) -> None:
    """A grant that does not say lease hands out no key, whatever is asked for; it looks like none at all."""
    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    with pytest.raises(NotGranted) as forbidden:
        _page(parts, caller, columns=("id",))
    with pytest.raises(NotGranted) as unknown:
        access.lease_page(parts, caller, Request("nothing", lease=True))
    assert str(forbidden.value) == str(unknown.value)


@pytest.mark.parametrize("terms", [{"where": "id < 5"}, {"masks": {"prompt": "redact"}}])
def test_no_lease_under_a_filter_or_a_mask_whatever_the_grant_says(
    published: Lab, monkeypatch: pytest.MonkeyPatch, terms: dict[str, object]
) -> None:
    """Even a grant that was signed as a lease with a filter or a mask, by some other tool, is a stream."""
    monkeypatch.setattr(grants, "_check_delivery", lambda *_args, **_kwargs: None)
    published.vault.grant("acme", "evals", ["id", "prompt"], delivery="lease", **terms)  # type: ignore[arg-type]
    parts = published.broker_parts()
    caller = published.caller(parts, "acme")
    assert [offering.leasable for offering in access.offerings(parts, caller)] == [False]
    with pytest.raises(NotGranted):
        _page(parts, caller)


def test_a_delegate_leases_no_more_than_was_handed_on(lab: Lab, tmp_path: Path) -> None:
    """A row filter, or one column of two that share a key, is no lease; whole groups are."""
    from tests.support.tables import rows

    lab.vault.publish("evals", rows(20), groups={"both": ["id", "lang"]})
    lab.vault.grant("acme", "evals", ["id", "lang", "prompt"], delivery="lease")
    with broker(lab.folder) as url:
        parent = lab.profile("acme", url)
        for number, (columns, where, leases) in enumerate(
            [(["prompt"], "id < 5", False), (["id"], None, False), (["prompt"], None, True), (None, None, True)]
        ):
            file = tmp_path / f"child-{number}.json"
            delegate(parent, "ann", file, expires=timedelta(hours=1), columns=columns, where=where)
            dataset = connect(file).dataset("evals")
            assert [grant.delivery for grant in dataset.grants] == ["lease" if leases else "stream"]
            if leases:
                assert dataset.to_arrow(delivery="lease").num_rows == 20
            else:
                with pytest.raises(NotGranted):
                    dataset.to_arrow(delivery="lease")


def test_the_keys_of_a_page_open_nothing_beyond_it(leased: Lab) -> None:
    """A chunk key of one chunk opens no other of the same column, and there are keys of granted columns only."""
    from vault.chunks import decode
    from vault.errors import IntegrityError
    from vault.model import ChunkIdentity, KeyScope

    parts = leased.broker_parts()
    caller = leased.caller(parts, "acme")
    first = _page(parts, caller)
    second = _page(parts, caller, first.next)
    assert sorted(name for group in first.groups for name in group.schema.names) == ["id", "prompt"]
    group, other = first.groups[0], second.shards[0].chunks[0]
    identity = ChunkIdentity(KeyScope(first.vault, group.compartment, group.group, group.epoch), other.chunk)
    data = b"".join(access.leased_object(parts, other.url.removeprefix(OBJECTS_PATH)).pieces(0, other.size))
    assert decode(data, other.key, identity).num_rows == 30
    with pytest.raises(IntegrityError):
        decode(data, first.shards[0].chunks[0].key, identity)


def test_a_cursor_is_good_for_its_own_lease_only(leased: Lab) -> None:
    """Of another vendor, of another choice of columns, of a stream, changed, or cut: refused."""
    leased.vault.grant("globex", "evals", ["id", "prompt"], delivery="lease")
    parts = leased.broker_parts()
    acme, globex = leased.caller(parts, "acme"), leased.caller(parts, "globex")
    cursor = _page(parts, acme).next
    assert cursor is not None
    for caller, given, request in (
        (globex, cursor, {}),
        (acme, cursor, {"columns": ("id",)}),
        (acme, cursor[:-1] + bytes([cursor[-1] ^ 1]), {}),
        (acme, cursor[:-1], {}),
    ):
        with pytest.raises(InvalidInput, match="cursor"):
            _page(parts, caller, given, **request)
    stream = access.open_delivery(parts, acme, Request("evals"))
    next(stream.batches)
    with pytest.raises(InvalidInput, match="cursor"):
        _page(parts, acme, stream.cursor())
    with pytest.raises(InvalidInput, match="cursor"):
        access.open_delivery(parts, acme, Request("evals"), None, cursor)


def test_nothing_more_is_leased_once_it_is_ended(leased: Lab) -> None:
    """After a freeze, and after the grant or the credential ended, neither a page nor ciphertext is had."""
    (grant,) = leased.vault.grants()

    def freeze(_: access.Caller) -> None:
        leased.vault.freeze("acme")

    def end(caller: access.Caller) -> None:
        leased.vault.thaw("acme")
        leased.vault.revoke_credential(caller.credential)

    def revoke(_: access.Caller) -> None:
        leased.vault.revoke(grant.grant.id)

    for act, error in ((freeze, Frozen), (end, NotGranted), (revoke, NotGranted)):
        if act is end:
            leased.vault.thaw("acme")
        parts = leased.broker_parts()
        caller = leased.caller(parts, "acme")
        page = _page(parts, caller)
        ticket = page.shards[0].chunks[0].url.removeprefix(OBJECTS_PATH)
        found = access.leased_object(parts, ticket)
        pieces = found.pieces(0, found.size)
        act(caller)
        time.sleep(1.1)
        with pytest.raises(error):
            next(pieces)
        with pytest.raises(error):
            access.leased_object(parts, ticket)
        if act is not end:
            with pytest.raises(error):
                _page(parts, caller, page.next)


def test_an_address_ends_with_its_page(leased: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 300 seconds the broker hands out no ciphertext for it."""
    parts = leased.broker_parts()
    page = _page(parts, leased.caller(parts, "acme"))
    ticket = page.shards[0].chunks[0].url.removeprefix(OBJECTS_PATH)
    access.leased_object(parts, ticket)
    later(monkeypatch, timedelta(seconds=301))
    with pytest.raises(NotGranted):
        access.leased_object(parts, ticket)


def test_an_address_that_was_not_handed_out_gives_nothing(leased: Lab) -> None:
    """Changed, cut, of another vendor's, of a vendor that is not served, or invented: one answer, and no byte."""
    parts = leased.broker_parts()
    page = _page(parts, leased.caller(parts, "acme"))
    path = page.shards[0].chunks[0].url
    sealed = base64.urlsafe_b64decode(path.removeprefix(OBJECTS_PATH) + "==")
    with parts.catalog.read() as transaction:
        other = next(bytes.fromhex(row.id) for row in transaction.holders() if bytes.fromhex(row.id) != sealed[:16])
    wrong = [
        sealed[:-1] + bytes([sealed[-1] ^ 1]),
        sealed[:40],
        other + sealed[16:],
        bytes(16) + sealed[16:],
        b"",
        b"x" * 200,
    ]
    http, answers = urllib3.PoolManager(retries=False), set()
    with broker(leased.folder) as url:
        for data in wrong:
            ticket = base64.urlsafe_b64encode(data).decode().rstrip("=")
            answer = http.request("GET", url + OBJECTS_PATH + (ticket or "x"))
            answers.add((answer.status, answer.data))
        assert http.request("GET", url + path).status == 200
    assert len(answers) == 1
    assert answers.pop()[0] == 404
    with broker(leased.folder, "--vendors", "globex") as url:
        assert http.request("GET", url + path).status == 404


def test_a_filter_beside_a_lease_is_refused_by_name(leased: Lab) -> None:
    """A request for a lease has no predicate and no limit: it is not served without them."""
    with broker(leased.folder) as url:
        client = vault.connect(leased.profile("acme", url))
        for body in (b'{"where": "id < 5"}', b'{"limit": 3}'):
            with pytest.raises(InvalidInput, match="where|limit"):
                client.connection.send("POST", "/v1/datasets/evals/lease", body)
