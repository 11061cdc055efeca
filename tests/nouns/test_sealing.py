"""Sealing to the auditor: what whoever appends keeps, and what an auditor may give away."""

import os
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from vault.audit import Entry, Kind, Opener, Sealer, open_with_key
from vault.audit.sealing import SESSION_ENTRIES
from vault.errors import IntegrityError

VAULT = "a0" * 16
_SECRET = X25519PrivateKey.generate()
_AUDITOR, _PUBLIC = _SECRET.private_bytes_raw(), _SECRET.public_key().public_bytes_raw()


def _entry(number: int = 0) -> Entry:
    return Entry(Kind.INIT, datetime(2026, 1, 1, tzinfo=UTC), {"number": number})


def test_entries_of_several_sessions_open() -> None:
    """More entries than a session has are sealed under two sessions, and all open, in any order."""
    sealer, opener = Sealer(VAULT, _PUBLIC), Opener(VAULT, [_AUDITOR])
    sealed = [sealer.seal(_entry(number)) for number in range(SESSION_ENTRIES + 3)]
    assert len({each[:81] for each in sealed}) == 2
    assert len({opener.entry_key(each) for each in sealed}) == len(sealed)
    assert [opener.open(each).fields["number"] for each in reversed(sealed)] == list(reversed(range(len(sealed))))


def test_who_appends_keeps_no_key_of_what_it_wrote() -> None:
    """The keys of entries that were sealed are nowhere in the sealer any more, and the session's secret never was."""
    sealer, opener = Sealer(VAULT, _PUBLIC), Opener(VAULT, [_AUDITOR])
    keys = [opener.entry_key(sealer.seal(_entry())) for _ in range(5)]
    held = bytes(sealer._left)
    assert not any(key in held for key in keys)
    assert held[: 5 * 32] == bytes(5 * 32)
    assert sealer._session[1:] not in held


def test_a_child_process_does_not_seal_under_its_parents_keys() -> None:
    """After a fork both sides make a session of their own, so that no key seals two entries."""
    sealer = Sealer(VAULT, _PUBLIC)
    sealer.seal(_entry())
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, sealer.seal(_entry(1)))
        os._exit(0)
    os.waitpid(child, 0)
    theirs, ours = os.read(reading, 10_000), sealer.seal(_entry(2))
    os.close(reading)
    os.close(writing)
    opener = Opener(VAULT, [_AUDITOR])
    assert opener.open(theirs).fields["number"] == 1
    assert opener.entry_key(theirs) != opener.entry_key(ours)
    assert theirs[:81] != ours[:81]


def test_the_newest_auditor_and_earlier_ones_open_their_own() -> None:
    """Each entry opens with the key of the auditor of its time, and with no other."""
    other = X25519PrivateKey.generate()
    sealed = [Sealer(VAULT, key.public_key().public_bytes_raw()).seal(_entry()) for key in (_SECRET, other)]
    both = Opener(VAULT, [_AUDITOR, other.private_bytes_raw()])
    assert [both.open(each) for each in sealed] == [_entry(), _entry()]
    with pytest.raises(IntegrityError):
        Opener(VAULT, [_AUDITOR]).open(sealed[1])


@pytest.mark.parametrize("key", [bytes(32), b"", bytes(31), bytes(16)])
def test_another_key_opens_nothing(key: bytes) -> None:
    """An entry opens under its own key alone, which stands in it as a commitment."""
    with pytest.raises(IntegrityError):
        open_with_key(Sealer(VAULT, _PUBLIC).seal(_entry()), VAULT, key)
