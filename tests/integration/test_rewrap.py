"""Data keys move to another KMS key: nothing is read, nothing is lost, and readers notice nothing."""

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

import vault
from tests.conftest import Lab
from tests.support.log import acts
from tests.support.reading import read
from tests.support.tables import rows
from vault import deployment, rewrap
from vault.catalog import KeyRow
from vault.encoding import new_id
from vault.errors import Conflict, KeyUnavailable, KmsError, NotFound, Unavailable
from vault.kms import KeyState, Kms
from vault.owner import Vault
from vault.workings import cutting

pytestmark = pytest.mark.both_catalogs


class Counting:
    """A KMS that counts what it is asked, and fails when it is told to."""

    def __init__(self, kms: Kms) -> None:
        self._kms = kms
        self.calls: list[str] = []
        self.fail_after: int | None = None

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._kms, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            if self.fail_after is not None and self.calls.count("rewrap") > self.fail_after:
                raise KmsError("trouble")
            return found(*arguments, **options)

        return call


def _counting(lab: Lab) -> tuple[Vault, Counting]:
    made: list[Counting] = []

    def wrap(kms: Kms) -> Kms:
        made.append(Counting(kms))
        return made[0]  # type: ignore[return-value]

    return Vault(lab.folder, deployment.open_owner(lab.folder, kms_wrap=wrap)), made[0]


def _key_rows(lab: Lab, vendor: str) -> list[KeyRow]:
    holder = next(each.id for each in lab.vault.kms_keys() if each.holder == vendor)
    with lab.vault.parts.catalog.read() as transaction:
        return transaction.keys_of_holder(holder)


def test_the_old_key_can_be_disabled_and_everything_still_reads(granted: Lab) -> None:
    """After a rewrap every data key is under the new KMS key, the old ones open nothing, and nobody misses them."""
    before = {each.holder: each.key for each in granted.vault.kms_keys()}
    done = granted.vault.rewrap(disable_old=True)
    assert {each.vendor for each in done} == {"owner", "acme", "globex"}
    for each in granted.vault.kms_keys():
        assert each.key != before[each.holder]
        assert each.state is KeyState.ENABLED
        assert granted.vault.parts.kms.state(before[each.holder]) is KeyState.DISABLED
        assert {row.kms_key for row in _key_rows(granted, each.holder)} == {each.key}
    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    assert read(parts, caller).num_rows == 50
    opened = Vault(granted.folder, deployment.open_owner(granted.folder))
    assert opened.scan("evals").read_all().num_rows == 100
    assert opened.check().ok
    opened.publish("evals", rows(20, start=100), key="id", append=True)
    assert read(parts, caller).num_rows == 60


def test_only_the_vendor_that_was_named_moves(granted: Lab) -> None:
    """A rewrap of one vendor touches no other's KMS key."""
    before = {each.holder: each.key for each in granted.vault.kms_keys()}
    (done,) = granted.vault.rewrap("acme")
    assert done.keys == len(_key_rows(granted, "acme"))
    after = {each.holder: each.key for each in granted.vault.kms_keys()}
    assert {holder for holder in before if before[holder] != after[holder]} == {"acme"}
    with pytest.raises(NotFound):
        granted.vault.rewrap("nobody")


def test_the_kms_is_asked_once_for_each_data_key_and_the_store_never(
    granted: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls grow with data keys only, and no object is read."""
    opened, kms = _counting(granted)
    opened.parts.sealer()
    kms.calls.clear()

    real = type(opened.parts.store).get

    def refuse(store: Any, name: str) -> bytes:
        assert name.startswith("heads/"), "a rewrap reads no object that holds data"
        return real(store, name)

    monkeypatch.setattr(type(opened.parts.store), "get", refuse)
    (done,) = opened.rewrap("acme")
    assert kms.calls.count("rewrap") == done.keys
    # Besides: how the old KMS key stands, the new one, and the vendor's metadata key to seal its name anew.
    assert len(kms.calls) - done.keys <= 4


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_rewrap_that_was_cut_short_goes_on_under_the_same_key(
    granted: Lab, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Cut at any data key, readers are served meanwhile, and the next run finishes under the KMS key that was made."""
    monkeypatch.setattr(rewrap, "_BATCH", 1)
    opened, kms = _counting(granted)
    kms.fail_after = after
    with pytest.raises(KmsError):
        opened.rewrap("acme")
    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    assert read(parts, caller).num_rows == 50
    assert granted.vault.check().ok
    successor = next(each.successor for each in granted.vault.kms_keys() if each.holder == "acme")
    (done,) = granted.vault.rewrap("acme", disable_old=True)
    assert done.new == successor
    assert done.keys == len(_key_rows(granted, "acme")) - after
    assert read(granted.broker_parts(), caller).num_rows == 50


def test_cut_before_the_last_transaction_nothing_is_lost(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every key moved and the end not reached, the next run has nothing to move and ends it."""

    def cut(*_arguments: object) -> bool:
        raise Unavailable("killed")

    with monkeypatch.context() as patch:
        patch.setattr(rewrap, "_finish", cut)
        with pytest.raises(Unavailable):
            granted.vault.rewrap("acme")
    (done,) = granted.vault.rewrap("acme", disable_old=True)
    assert done.keys == 0
    parts = granted.broker_parts()
    assert read(parts, granted.caller(parts, "acme")).num_rows == 50


def test_prepare_makes_the_key_and_moves_nothing(granted: Lab) -> None:
    """With --prepare the new KMS key is there for policies to name, and data keys stay where they are."""
    (ready,) = granted.vault.rewrap("acme", prepare=True)
    (again,) = granted.vault.rewrap("acme", prepare=True)
    assert (ready.done, ready.keys, again.new) == (False, 0, ready.new)
    assert {row.kms_key for row in _key_rows(granted, "acme")} == {ready.old}
    assert set(granted.vault.privileges("acme").keys) == {ready.old, ready.new}
    (done,) = granted.vault.rewrap("acme")
    assert (done.done, done.new) == (True, ready.new)
    assert granted.vault.privileges("acme").keys == (ready.new,)


def test_keys_that_a_publish_makes_meanwhile_follow(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publish that began before a rewrap and commits after it leaves no data key under the old KMS key."""
    real = cutting.cut_shards
    done = []

    def cut(*arguments: Any, **options: Any) -> Any:
        if not done:
            done.append(True)
            granted.vault.rewrap(disable_old=False)
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(cutting, "cut_shards", cut)
        granted.vault.publish("other", rows(10), key="id")
        granted.vault.grant("acme", "other", ["id"])
    for each in granted.vault.kms_keys():
        assert {row.kms_key for row in _key_rows(granted, each.holder)} == {each.key}
    assert granted.vault.check().ok


def test_a_publish_between_two_looks_is_moved_too(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data keys that come while others are moved are found by the last transaction, and moved."""
    real = rewrap._move
    done = []

    def move(*arguments: Any) -> int:
        if not done:
            done.append(True)
            granted.vault.publish("other", rows(10), key="id")
            granted.vault.grant("acme", "other", ["id", "answer"])
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(rewrap, "_move", move)
        (result,) = granted.vault.rewrap("acme", disable_old=True)
    assert result.keys == len(_key_rows(granted, "acme"))
    parts = granted.broker_parts()
    assert read(parts, granted.caller(parts, "acme"), "other").num_rows == 10


def test_two_rewraps_at_once_end_under_one_key(granted: Lab) -> None:
    """Two administrators who rewrap one vendor at the same time leave it under one KMS key, and everything reads."""
    labs = [Vault(granted.folder, deployment.open_owner(granted.folder)) for _ in range(2)]
    start = threading.Barrier(2)

    def work(opened: Vault) -> None:
        start.wait()
        try:
            ended.append(opened.rewrap("acme")[0].new)
        except Conflict:
            return

    (before,) = {row.kms_key for row in _key_rows(granted, "acme")}
    ended: list[str] = []
    threads = [threading.Thread(target=work, args=(each,)) for each in labs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = {row.kms_key for row in _key_rows(granted, "acme")}
    assert ended, "one of the two has to succeed"
    assert keys <= set(ended)
    assert before not in keys
    assert keys == {next(each.key for each in granted.vault.kms_keys() if each.holder == "acme")}
    parts = granted.broker_parts()
    assert read(parts, granted.caller(parts, "acme")).num_rows == 50


def test_brokers_serve_while_keys_move(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that holds no key for longer than an instant reads the same rows throughout a slow rewrap."""
    monkeypatch.setattr(rewrap, "_BATCH", 1)
    parts = granted.broker_parts(key_age=0)
    caller = granted.caller(parts, "acme")
    expected = read(parts, caller)
    stop = threading.Event()
    seen: list[bool] = []

    def work() -> None:
        while not stop.is_set():
            seen.append(read(parts, caller).equals(expected))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(3):
            granted.vault.rewrap("acme")
    finally:
        stop.set()
        thread.join()
    assert seen
    assert all(seen)


def test_ten_thousand_data_keys_take_seconds(lab: Lab) -> None:
    """Rewrapping 10,000 data keys under the local KMS is a matter of seconds, with one call for each."""
    opened, kms = _counting(lab)
    opened.publish("evals", rows(1), key="id")
    parts = opened.parts
    owner = next(each for each in opened.kms_keys() if each.holder == "owner")
    row = next(each for each in _key_rows(lab, "owner") if each.group not in {"metadata"})
    from vault.workings.parts import wrapped_key

    scope = wrapped_key(parts.vault, row).scope
    with parts.catalog.write() as transaction:
        from vault.workings.writing import key_row

        made = (parts.keyring.create(replace(scope, group=new_id()), owner.key)[0] for _ in range(10_000))
        transaction.add_keys(key_row(each, row.created) for each in made)
    kms.calls.clear()
    started = time.monotonic()
    (done,) = opened.rewrap("owner")
    seconds = time.monotonic() - started
    assert done.keys >= 10_000
    assert kms.calls.count("rewrap") == done.keys
    assert len(kms.calls) <= done.keys + 4
    # Far above what it takes (see the benchmarks): this only catches work that grows faster than the keys.
    assert seconds < 60


def test_a_key_of_another_is_not_disabled_by_mistake(granted: Lab) -> None:
    """An earlier KMS key can be named, when the log knows it as the vendor's; another vendor's cannot."""
    from vault.errors import InvalidInput

    keys: Mapping[str, str] = {each.holder: each.key for each in granted.vault.kms_keys()}
    with pytest.raises(InvalidInput):
        granted.vault.disable_kms_key("acme", keys["globex"])
    granted.vault.rewrap("acme")
    assert granted.vault.disable_kms_key("acme", keys["acme"]) == (keys["acme"],)
    with pytest.raises(KeyUnavailable):
        granted.vault.parts.kms.wrap(keys["acme"], b"x", {})
    granted.vault.enable_kms_key("acme", keys["acme"])
    assert granted.vault.parts.kms.state(keys["acme"]) is KeyState.ENABLED


def test_a_stale_run_puts_nothing_back(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that slept while others rewrapped twice and disabled what it was moving to changes no row."""
    real = rewrap._move
    slept = []

    def sleep_first(parts: Any, successor: str, stale: list[KeyRow]) -> int:
        if not slept:
            slept.append(successor)
            granted.vault.rewrap("acme")
            granted.vault.rewrap("acme", disable_old=True)
        return real(parts, successor, stale)

    with monkeypatch.context() as patch:
        patch.setattr(rewrap, "_move", sleep_first)
        with pytest.raises((Conflict, KeyUnavailable)):
            granted.vault.rewrap("acme")
    present = next(each.key for each in granted.vault.kms_keys() if each.holder == "acme")
    assert {row.kms_key for row in _key_rows(granted, "acme")} == {present}
    row = _key_rows(granted, "acme")[0]
    with granted.vault.parts.catalog.write() as transaction:
        assert transaction.move_keys([(replace(row, wrapped=b"what it was before"), slept[0], b"stale")]) == 0
    parts = granted.broker_parts()
    assert read(parts, granted.caller(parts, "acme")).num_rows == 50


def test_a_key_that_was_to_be_disabled_is_disabled_by_the_next_run(
    granted: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the data keys moved and before the old KMS key was disabled, the same command disables it."""
    old = next(each.key for each in granted.vault.kms_keys() if each.holder == "acme")

    def cut(*_arguments: object) -> None:
        raise Unavailable("killed")

    with monkeypatch.context() as patch:
        patch.setattr(rewrap, "disable_keys", cut)
        with pytest.raises(Unavailable):
            granted.vault.rewrap("acme", disable_old=True)
    assert granted.vault.parts.kms.state(old) is KeyState.ENABLED
    granted.vault.rewrap("acme", disable_old=True)
    assert granted.vault.parts.kms.state(old) is KeyState.DISABLED


def test_the_owners_key_cannot_be_disabled_by_mistake(granted: Lab) -> None:
    """Disabling what opens the vault itself is refused; an earlier KMS key of the owner's can be disabled."""
    from vault.errors import InvalidInput

    old = granted.vault.rewrap("owner")[0].old
    with pytest.raises(InvalidInput, match="opens the vault"):
        granted.vault.disable_kms_key("owner")
    granted.vault.disable_kms_key("owner", old)
    assert vault.open(granted.folder).check().ok


def test_a_disabling_that_failed_is_in_the_log_as_failed(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads the log at night is not told that a KMS key is disabled which the KMS did not disable."""

    def refuse(*_arguments: object) -> None:
        raise KmsError("trouble")

    with monkeypatch.context() as patch:
        patch.setattr(type(granted.vault.parts.kms), "disable_key", refuse)
        with pytest.raises(KmsError):
            granted.vault.disable_kms_key("acme")
    last = acts(granted.vault)[-1]
    assert (last.kind.value, last.fields["failed"]) == ("KMS key disabled", True)
