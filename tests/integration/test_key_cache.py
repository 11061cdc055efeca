"""Unwrapped data keys leave a broker's memory when they must."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Lab
from tests.support.catalog import gone
from tests.support.reading import read
from tests.support.tables import rows
from vault import access, deployment
from vault.errors import Frozen, InvalidInput
from vault.workings.parts import Parts

pytestmark = pytest.mark.both_catalogs


def _within_a_second(holds: Callable[[], bool]) -> bool:
    ends = time.monotonic() + 1.0
    while time.monotonic() < ends:
        if holds():
            return True
        time.sleep(0.02)
    return holds()


@pytest.fixture
def warm(published: Lab) -> tuple[Lab, Parts, Parts]:
    """Two brokers that hold keys of acme and globex."""
    for vendor in ("acme", "globex"):
        published.vault.grant(vendor, "evals", ["id", "prompt"])
    brokers = (published.broker_parts(), published.broker_parts())
    for parts in brokers:
        for vendor in ("acme", "globex"):
            read(parts, published.caller(parts, vendor))
    return published, *brokers


def _places(lab: Lab, vendor: str) -> set[str]:
    holder = next(state.id for state in lab.vault.vendors() if state.name == vendor)
    with lab.vault.parts.catalog.read() as transaction:
        return {holder, *(row.id for row in transaction.compartments(holder=holder))}


@pytest.mark.parametrize("act", ["freeze", "revoke", "rekey", "rewrap", "credential"])
def test_every_broker_drops_a_vendors_keys_within_a_second(warm: tuple[Lab, Parts, Parts], act: str) -> None:
    """A freeze, a revocation, a rekey or a rewrap empties every broker of that vendor's keys, and of nobody else's."""
    lab, *brokers = warm
    acme, globex = _places(lab, "acme"), _places(lab, "globex")
    with access.watch(brokers[0]), access.watch(brokers[1]):
        assert all(parts.keyring.compartments == acme | globex for parts in brokers)
        acts: dict[str, Callable[[], object]] = {
            "freeze": lambda: lab.vault.freeze("acme"),
            "revoke": lambda: lab.vault.revoke(lab.vault.grants("acme")[0].grant.id),
            "credential": lambda: lab.vault.revoke_credential(lab.vault.credentials()[0].credential.id),
            "rekey": lambda: lab.vault.rekey("acme"),
            "rewrap": lambda: lab.vault.rewrap("acme"),
        }
        acts[act]()
        # A rekey moves the compartment's keys; the holder's metadata key stays what it was.
        kept = acme - {row for row in acme if row in _compartments(lab)} if act == "rekey" else set()
        assert all(_within_a_second(lambda p=parts: p.keyring.compartments == globex | kept) for parts in brokers)  # type: ignore[misc]


def test_a_stream_that_fetches_ahead_brings_no_key_back(published: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stream's threads open after a freeze is refused, or gone again within the age of a head."""
    from vault.access import Request
    from vault.workings import reading

    published.vault.publish("evals", rows(60, start=1000), key="id", append=True)
    published.vault.grant("acme", "evals", ["id", "prompt"])
    parts = published.broker_parts()
    caller = published.caller(parts, "acme")
    frozen, met = threading.Event(), threading.Event()
    real = reading.open_chunk

    def late(*arguments: Any) -> Any:
        """Stands before its key when the vendor is frozen, and goes on afterwards."""
        met.set()
        assert frozen.wait(20)
        return real(*arguments)

    monkeypatch.setattr(reading, "open_chunk", late)
    watching = access.watch(parts)
    watching.look()
    delivery = access.open_delivery(parts, caller, Request("evals"))

    def take() -> None:
        # It may end well: for a second everybody may act on the head of before.
        with suppress(Frozen):
            list(delivery.batches)

    reader = threading.Thread(target=take)
    reader.start()
    assert met.wait(20)
    published.vault.freeze("acme")
    watching.look()
    frozen.set()
    reader.join(20)
    for _ in range(3):
        watching.look()
    assert not parts.keyring.compartments & _places(published, "acme")


def test_a_permit_that_ended_opens_no_key(published: Lab) -> None:
    """The keyring of a permit asks whether it still counts before it asks the KMS."""
    from vault.keyring import ScopedKeyring
    from vault.workings.parts import metadata_key, wrapped_key

    parts = published.vault.parts
    with parts.catalog.read() as transaction:
        key = wrapped_key(parts.vault, metadata_key(transaction, parts.owner))

    def ended() -> None:
        raise Frozen("the vendor is frozen")

    with pytest.raises(Frozen):
        ScopedKeyring(parts.keyring, [key.scope], ended).open(key)
    assert ScopedKeyring(parts.keyring, [key.scope]).open(key)


def _compartments(lab: Lab) -> set[str]:
    with lab.vault.parts.catalog.read() as transaction:
        return {row.id for row in transaction.compartments()}


def test_a_catalog_that_cannot_be_read_leaves_no_key(warm: tuple[Lab, Parts, Parts]) -> None:
    """While a broker cannot see whether a vendor was stopped it holds no key of anybody."""
    lab, parts, _ = warm
    with gone(lab), access.watch(parts):
        assert _within_a_second(lambda: not parts.keyring.compartments)


def test_a_broker_that_stops_holds_nothing(warm: tuple[Lab, Parts, Parts]) -> None:
    """When the watch ends, so does the cache."""
    _, parts, _ = warm
    with access.watch(parts):
        assert parts.keyring.compartments
    assert not parts.keyring.compartments


def test_the_cache_is_configured_and_bounded(lab: Lab) -> None:
    """The limits stand in the configuration, down to 0 and never above a minute; what is wrong is named."""
    path = lab.folder / "broker" / "config.toml"
    text = path.read_text()
    path.write_text(text + "\n[data_keys]\nage = 0\nkeys = 10\n")
    limits = deployment.Configuration.read(path).data_keys
    assert (limits.age, limits.keys) == (0, 10)
    for wrong in ("age = 61", "age = true", 'keys = "x"', "ages = 1", "age = -1"):
        path.write_text(f"{text}\n[data_keys]\n{wrong}\n")
        with pytest.raises(InvalidInput, match="data_keys"):
            deployment.open_broker(lab.folder)
    path.write_text(f"{text}\ndata_keys = 5\n")
    with pytest.raises(InvalidInput, match="data_keys"):
        deployment.open_broker(Path(lab.folder))


def test_small_chunks_are_let_go_of_with_the_keys(granted: Lab) -> None:
    """What a broker holds decoded goes when the watch sees a freeze, and where no key is held it holds nothing."""
    parts = granted.broker_parts()
    caller = granted.caller(parts, "acme")
    watch = access.watch(parts)
    watch.look()
    expected = read(parts, caller)
    assert len(parts.lately.tables) > 0
    assert read(parts, caller).equals(expected)
    granted.vault.freeze("acme")
    watch.look()
    assert len(parts.lately.tables) == 0
    granted.vault.thaw("acme")
    careful = granted.broker_parts(key_age=0)
    assert read(careful, granted.caller(careful, "acme")).equals(expected)
    assert len(careful.lately.tables) == 0
