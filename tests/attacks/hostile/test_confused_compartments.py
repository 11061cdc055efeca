"""Mixing what belongs to two vendors' encrypted copies of one dataset."""

import base64
import itertools

import pytest

from tests.attacks.hostile.place import Hostile, problem
from vault.chunks import decode
from vault.errors import IntegrityError
from vault.model import ChunkIdentity, KeyScope
from vault.wire import OBJECTS_PATH, LeasePage, Token


def _page(hostile: Hostile, by: Token) -> LeasePage:
    return LeasePage.parse(hostile.lease({"direct": False}, by=by).json())


def _ciphertext(hostile: Hostile, page: LeasePage, number: int) -> bytes:
    answer = hostile.get(page.shards[0].chunks[number].url, {})
    assert answer.status == 200
    return bytes(answer.data)


def _identity(page: LeasePage, number: int, chunk: str | None = None, **other: str) -> ChunkIdentity:
    group = page.groups[number]
    scope = KeyScope(
        page.vault, other.get("compartment", group.compartment), other.get("group", group.group), group.epoch
    )
    return ChunkIdentity(scope, chunk or page.shards[0].chunks[number].chunk)


def test_two_vendors_have_nothing_of_one_dataset_in_common(hostile: Hostile) -> None:
    """The same two columns of the same rows: no key, chunk, compartment or byte of ciphertext is the other's too."""
    acme, globex = _page(hostile, hostile.acme), _page(hostile, hostile.globex)
    for seen in (
        [{group.compartment for group in page.groups} for page in (acme, globex)],
        [{chunk.chunk for shard in page.shards for chunk in shard.chunks} for page in (acme, globex)],
        [{chunk.key for shard in page.shards for chunk in shard.chunks} for page in (acme, globex)],
        [{_ciphertext(hostile, page, number) for number in range(2)} for page in (acme, globex)],
    ):
        assert not seen[0] & seen[1]


def test_one_vendors_keys_open_nothing_of_the_others_copy(hostile: Hostile) -> None:
    """Every key on every chunk under every identity that the two can put together: each opens its own, once."""
    acme, globex = _page(hostile, hostile.acme), _page(hostile, hostile.globex)
    places = [(page, number) for page in (acme, globex) for number in range(2)]
    keys = [page.shards[0].chunks[number].key for page, number in places]
    data = [_ciphertext(hostile, page, number) for page, number in places]
    identities = [_identity(page, number) for page, number in places]
    # Half from the one and half from the other, too.
    mixed = [
        _identity(page, number, chunk, compartment=compartment, group=group)
        for (page, number), chunk, compartment, group in itertools.product(
            places,
            {page.shards[0].chunks[number].chunk for page, number in places},
            {page.groups[number].compartment for page, number in places},
            {page.groups[number].group for page, number in places},
        )
    ]
    opened = set()
    for (k, key), (c, chunk) in itertools.product(enumerate(keys), enumerate(data)):
        for identity in {each.encode(): each for each in (*identities, *mixed)}.values():
            try:
                decode(chunk, key, identity)
            except IntegrityError:
                continue
            assert identity == identities[c]
            opened.add((k, c))
    assert opened == {(number, number) for number in range(4)}


@pytest.mark.parametrize("vendor", ["globex", "nobody"])
def test_an_address_with_another_vendors_name_on_it(hostile: Hostile, vendor: str) -> None:
    """A ticket says whose it is in its first bytes: changed, it is no ticket, be there such a vendor or not."""
    ticket = _page(hostile, hostile.acme).shards[0].chunks[0].url.removeprefix(OBJECTS_PATH)
    sealed = base64.urlsafe_b64decode(ticket + "=" * (-len(ticket) % 4))
    known = {found.name: bytes.fromhex(found.id) for found in hostile.lab.vault.vendors()}
    assert sealed[:16] == known["acme"]
    other = base64.urlsafe_b64encode(known.get(vendor, bytes(16)) + sealed[16:]).decode().rstrip("=")
    answer = hostile.get(OBJECTS_PATH + other, {})
    problem(answer, 404)
    invented = base64.urlsafe_b64encode(b"x" * len(sealed)).decode().rstrip("=")
    assert answer.data == hostile.get(OBJECTS_PATH + invented, {}).data


def test_two_tickets_do_not_make_a_third(hostile: Hostile) -> None:
    """One vendor's beginning with the other's end, cut at every border of the parts."""
    tickets = []
    for token in (hostile.acme, hostile.globex):
        text = _page(hostile, token).shards[0].chunks[0].url.removeprefix(OBJECTS_PATH)
        tickets.append(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    for at in (16, 32, 44, len(tickets[0]) - 16):
        mixed = base64.urlsafe_b64encode(tickets[0][:at] + tickets[1][at:]).decode().rstrip("=")
        problem(hostile.get(OBJECTS_PATH + mixed, {}), 404)
