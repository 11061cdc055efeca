"""Envelopes of submissions that a vendor's key signed, and that are none."""

from typing import Any

import pytest

from vault.encoding import new_id, to_base64
from vault.errors import InvalidInput
from vault.proof import ProofKey
from vault.submission import open_envelope

_TYPE = "dsvault-submission+jwt"
_GOOD: dict[str, Any] = {
    **{name: new_id() for name in ("submission", "vault", "credential", "grant", "sealed_to")},
    "format": [1, 0],
    "version": 1,
    "rows": 1,
    "size": 1,
    "sha256": "0" * 64,
    "wrapped": to_base64(b"x" * 80),
}


def test_the_form_that_others_are_changed_from_is_one() -> None:
    """Else what is refused below would be refused for another reason."""
    assert open_envelope(ProofKey.create().sign(_TYPE, _GOOD))[1].rows == 1


@pytest.mark.parametrize("name", sorted(_GOOD))
@pytest.mark.parametrize("value", [[], "", {}, None, True, -1, 2**80, [[]], "é", [None], 0.5])
def test_whatever_a_claim_is_it_is_refused_in_a_sentence(name: str, value: Any) -> None:
    """A vendor signs what it likes; nothing of it is an error of this program's."""
    with pytest.raises(InvalidInput, match="^the envelope of the submission is not one, or was changed$"):
        open_envelope(ProofKey.create().sign(_TYPE, {**_GOOD, name: value}))
