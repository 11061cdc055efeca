"""A slice is read in parts, each by itself."""

import json
import os
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from tests.support.shown import GRANTED, expected, publish, shown
from tests.support.tables import rows
from vault import access
from vault.access.cutting import drawn
from vault.client import Dataset
from vault.errors import Conflict, InvalidInput, LimitReached, NotGranted
from vault.owner import Vault
from vault.policy import Request
from vault.workings.parts import Parts


def _ids(*tables: pa.Table) -> list[int]:
    return [number for table in tables for number in table["id"].to_pylist()]


def _of(dataset: Dataset, number: int, **options: Any) -> list[list[int]]:
    return [_ids(part.to_arrow(**options)) for part in dataset.parts(number)]


def test_parts_are_the_whole(cast: Callable[..., Lab]) -> None:
    """However many there are, each granted row is in one of them, with the granted columns; each read is in the log."""
    with shown(cast(publish)) as given:
        for number in (1, 2, 3, 7):
            found = [part.to_arrow() for part in given.dataset.parts(number)]
            assert sorted(_ids(*found)) == _ids(expected())
            assert {tuple(table.column_names) for table in found} == {GRANTED}
        given.check_log(reads=13)
        with given.revoked():
            given.client.open("shown").scan(part=(0, 2))


@pytest.fixture
def whole(cast: Callable[..., Lab]) -> Lab:
    """Acme may read all of it: four shards."""
    return cast(_whole, "published")


def _whole(opened: Vault) -> None:
    opened.grant("acme", "evals", ["id", "lang"])


def test_parts_of_a_whole_grant_are_neighbouring_shards(whole: Lab) -> None:
    """As evenly as shards allow, in order, with the number of rows of each; and by default one for each shard."""
    with broker(whole.folder) as endpoint:
        dataset = vault.connect(whole.profile("acme", endpoint)).dataset("evals")
        assert dataset.extent() == (1, 4)
        assert [len(ids) for ids in _of(dataset, 3)] == [30, 30, 40]
        assert [len(ids) for ids in _of(dataset, 8)] == [0, 30, 0, 30, 0, 30, 0, 10]
        assert list(chain(*_of(dataset, 3))) == list(range(100))
        assert [len(part.to_arrow()) for part in dataset.parts()] == [30, 30, 30, 10]
        assert [dataset.reading(part=(index, 3)).total for index in range(3)] == [30, 30, 40]
        assert [dataset.reading(part=(index, 3), limit=35).total for index in range(3)] == [30, 30, 35]
        assert _ids(dataset.to_arrow(part=(1, 3), where="id > 50", limit=2)) == [51, 52]
        assert dataset.reading(part=(1, 3), where="id > 50").total is None
    reads = [entry.fields["shards"] for _, entry in whole.vault.audit_entries() if entry.kind == "read begun"]
    assert reads[:3] == [[[0, 0]], [[1, 1]], [[2, 3]]]


def test_a_part_that_was_broken_off_goes_on(whole: Lab) -> None:
    """From its own place, which is no place in another part or in the whole."""
    with broker(whole.folder) as endpoint:
        dataset = vault.connect(whole.profile("acme", endpoint)).dataset("evals")
        first = next(dataset.reading(part=(2, 3)).pieces)
        rest = [piece.batch for piece in dataset.reading(part=(2, 3), place=first.place).pieces]
        assert _ids(pa.Table.from_batches([first.batch, *rest])) == list(range(60, 100))
        for other in (None, (1, 3), (2, 4)):
            with pytest.raises(InvalidInput, match="cursor"):
                dataset.reading(part=other, place=first.place)


def test_a_part_is_of_one_version(whole: Lab) -> None:
    """Once there is a newer one, the parts of the older are refused, and those of the newer can be had."""
    with broker(whole.folder) as endpoint:
        dataset = vault.connect(whole.profile("acme", endpoint)).dataset("evals")
        parts = dataset.parts(2)
        assert len(parts[0].to_arrow()) == 60
        whole.vault.publish("evals", rows(10), key="id")
        with pytest.raises(Conflict, match="version: it is version 2 that is read now, and not 1"):
            parts[1].to_arrow()
        assert sorted(chain(*_of(dataset, 2))) == list(range(10))
        with pytest.raises(Conflict, match="version"):
            dataset.scan(version=7)


def test_a_part_of_a_pinned_version(published: Lab) -> None:
    """A grant of one version reads its parts whatever is published."""
    published.vault.grant("acme", "evals", ["id"], version=1)
    published.vault.publish("evals", rows(10), key="id")
    with broker(published.folder) as endpoint:
        dataset = vault.connect(published.profile("acme", endpoint)).dataset("evals")
        assert dataset.extent().version == 1
        assert list(chain(*_of(dataset, 2))) == list(range(100))


@pytest.mark.parametrize("part", [(-1, 2), (2, 2), (0, 0), (0, 65_537), (1,), [0, 1], (True, 2), (0.0, 1)])
def test_what_is_no_part_is_refused(published: Lab, part: Any) -> None:
    """By the client in one sentence, before anything is sent."""
    published.vault.grant("acme", "evals", ["id"])
    dataset = vault.connect(published.profile("acme", "http://127.0.0.1:1")).open("evals")
    with pytest.raises(InvalidInput, match="^part: [^\n]+$"):
        dataset.scan(part=part)


def test_a_broker_refuses_what_is_no_part(whole: Lab) -> None:
    """One that is beyond the others, too many, or more than numbers."""
    with broker(whole.folder) as endpoint:
        client = vault.connect(whole.profile("acme", endpoint))
        for part in ({"index": 2, "of": 2}, {"index": 0, "of": 65_537}, {"index": 0}, {"index": 0, "of": 1, "x": 1}, 3):
            with pytest.raises(InvalidInput, match="part"):
                client.read("evals", {"part": part})
        with pytest.raises(InvalidInput, match="part"):
            client.lease("evals", {"part": {"index": 0, "of": 2}})
        assert len(client.dataset("evals").to_arrow(part=(65_535, 65_536))) == 10


def test_limits_count_in_parts_too(published: Lab) -> None:
    """A part is charged as any read, and what a limit leaves is all there is."""
    published.vault.grant("acme", "evals", ["id"], limits={"rows": 45})
    with broker(published.folder) as endpoint:
        dataset = vault.connect(published.profile("acme", endpoint)).dataset("evals")
        assert dataset.extent() == (1, None)
        seen: list[int] = []

        def read() -> None:
            for index in range(4):
                seen.extend(batch.num_rows for batch in dataset.scan(part=(index, 4)))

        with pytest.raises(LimitReached):
            read()
        assert sum(seen) == 45


def test_an_older_broker_is_said_to_be_one(published: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses the member without a name for it; the client has one sentence for that."""
    published.vault.grant("acme", "evals", ["id"])
    client = vault.connect(published.profile("acme", "http://127.0.0.1:1"))

    def refuse(method: str, path: str, body: bytes) -> Any:
        assert "part" in json.loads(body)
        raise InvalidInput("the request is not valid: part")

    monkeypatch.setattr(client.connection, "send", refuse)
    with pytest.raises(InvalidInput, match="^part, version: this broker is of an earlier release, and reads no parts$"):
        client.open("evals").scan(part=(0, 2))


def _with_rows(lab: Lab, of: int) -> list[int]:
    """Which of so many parts have rows, for acme."""
    parts = lab.broker_parts()
    caller = lab.caller(parts, "acme")
    found = []
    for index in range(of):
        delivery = access.open_delivery(parts, caller, Request("few", part=(index, of)))
        assert delivery.total is None
        if sum(batch.num_rows for batch in delivery.batches):
            found.append(index)
    return found


@pytest.mark.parametrize("how", [{"where": "kind = 'open'"}, {"limits": {"rows": 1000}}], ids=["filter", "limit"])
def test_parts_do_not_tell_how_many_shards_are_hidden(lab: Lab, how: dict[str, Any]) -> None:
    """The part of the one shard that is seen is the same with seven others behind it, which parts of order would show."""
    lab.vault.publish("few", pa.table({"id": [0], "kind": ["open"]}), shard_rows=1)
    lab.vault.grant("acme", "few", ["id"], **how)
    alone = _with_rows(lab, 8)
    assert len(alone) == 1
    hidden = pa.table({"id": list(range(1, 8)), "kind": ["hidden"] * 7})
    lab.vault.publish("few", hidden, shard_rows=1, append=True)
    beside = _with_rows(lab, 8)
    assert set(alone) <= set(beside)
    assert len(beside) < 8
    assert "where" not in how or beside == alone


def test_shards_are_drawn_evenly_and_alone() -> None:
    """What a shard draws depends on its key and number only; all parts get their share."""
    few, many = drawn(bytes(32), 10, 8), drawn(bytes(32), 8000, 8)
    assert few.tolist() == many[:10].tolist()
    assert few.tolist() != drawn(bytes([1]) * 32, 10, 8).tolist()
    counts = [int((many == part).sum()) for part in range(8)]
    assert all(850 < count < 1150 for count in counts)


def test_two_grants_of_the_same_columns_are_each_cut_as_their_own(published: Lab) -> None:
    """One with a limit, whose parts are drawn, beside one without, whose parts are neighbours: none takes the other's."""
    first = published.vault.grant("acme", "evals", ["id"])
    limited = published.vault.grant("acme", "evals", ["id"], limits={"rows": 10_000})
    fresh, parts = published.broker_parts(), published.broker_parts()
    caller = published.caller(parts, "acme")

    def numbers(grant: str, parts: Parts = parts) -> list[list[int]]:
        requests = [Request("evals", grant, part=(index, 64)) for index in range(64)]
        found = [access.open_delivery(parts, caller, request).batches for request in requests]
        return [[id_ for batch in batches for id_ in batch["id"].to_pylist()] for batches in found]

    ordered = numbers(first.id)
    assert [ids[0] for ids in ordered if ids] == [0, 30, 60, 90]
    apart = numbers(limited.id)
    assert sorted(chain(*apart)) == list(range(100))
    assert apart == numbers(limited.id, fresh)
    assert apart != ordered


def test_a_client_goes_to_another_process_by_its_profiles_file(published: Lab, tmp_path: Path) -> None:
    """No secret and no key is in what is sent; one that was not opened from a file is not sent."""
    import pickle

    published.vault.grant("acme", "evals", ["id"])
    path = published.profile("acme", "http://127.0.0.1:1")
    client = vault.connect(path)
    sent = pickle.dumps(client.open("evals"))
    document = json.loads(path.read_text())
    assert str(path).encode() in sent
    assert document["secret"].encode() not in sent
    assert client.profile.token.secret not in sent
    assert document["key"]["d"].encode() not in sent
    there = pickle.loads(sent)
    assert there.name == "evals"
    assert there.client.profile.token.secret == client.profile.token.secret
    with pytest.raises(InvalidInput, match="cannot be sent to another process"):
        pickle.dumps(vault.connect_with_token("http://127.0.0.1:1", lambda: "x"))


def test_a_forked_process_has_connections_of_its_own(published: Lab) -> None:
    """What comes on its parent's is not for it; the parent goes on with its own."""
    published.vault.grant("acme", "evals", ["id"])
    with broker(published.folder) as endpoint:
        client = vault.connect(published.profile("acme", endpoint))
        assert client.datasets() == ["evals"]
        before = client.connection._http
        child = os.fork()
        if child == 0:
            read = client.datasets() == ["evals"]
            os._exit(0 if read and client.connection._http is not before else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert client.datasets() == ["evals"]
        assert client.connection._http is before


def test_nothing_of_it_is_granted_in_parts(published: Lab) -> None:
    """What is not granted is refused as a part in the same words."""
    with broker(published.folder) as endpoint:
        dataset = vault.connect(published.profile("acme", endpoint)).open("evals")
        with pytest.raises(NotGranted):
            dataset.scan(part=(0, 2))
        with pytest.raises(NotGranted):
            dataset.extent()
