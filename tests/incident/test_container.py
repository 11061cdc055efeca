"""The outer form of an evidence bundle."""

import pytest

from vault.errors import InvalidInput
from vault.incident import container
from vault.incident.container import MEMBERS, pack, unpack


def test_evidence_beyond_what_is_ever_opened_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that nobody could verify is not made."""
    members = dict.fromkeys(MEMBERS, b"x" * 1000)
    assert unpack(pack(members)) == members
    monkeypatch.setattr(container, "MOST_BYTES", 20_000)
    with pytest.raises(InvalidInput, match="a bundle 20000 at the most"):
        pack(members)
