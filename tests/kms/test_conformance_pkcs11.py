"""The PKCS#11 backend keeps every KMS backend's obligations, on SoftHSM."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pkcs11
import pytest

from tests.support.softhsm import softhsm
from vault.kms.pkcs11 import Pkcs11Kms, _Session

from .conformance import Connect, KmsConformance, Trouble

ASKED = ("keys", "has_tombstone", "generate", "put_tombstone", "destroy", "allow", "encrypt", "decrypt")


class SoftHsmTokens(KmsConformance):
    """Clients of one pair of tokens."""

    trouble_is: type[pkcs11.PKCS11Error]

    @pytest.fixture
    def connect(self) -> Connect:
        """Clients as the owner has them."""
        hsm = softhsm()
        return lambda: Pkcs11Kms(hsm.module, hsm.token, hsm.pin, hsm.owner_token, hsm.owner_pin)

    @pytest.fixture
    def trouble(self, monkeypatch: pytest.MonkeyPatch) -> Trouble:
        """Trouble in what a token is asked, met once."""

        @contextmanager
        def begin(kind: str) -> Iterator[Callable[[], bool]]:
            met: list[str] = []

            def badly(real: Callable[..., Any]) -> Callable[..., Any]:
                def ask(*args: Any) -> Any:
                    if met:
                        return real(*args)
                    met.append(kind)
                    if kind == "slow":
                        time.sleep(0.1)
                    answer = real(*args) if kind != "error" else None
                    if kind == "slow":
                        return answer
                    raise self.trouble_is

                return ask

            with monkeypatch.context() as patch:
                for name in ASKED:
                    patch.setattr(_Session, name, badly(getattr(_Session, name)))
                yield lambda: bool(met)

        return begin


class TestFailing(SoftHsmTokens):
    """The HSM says that something went wrong."""

    trouble_is = pkcs11.GeneralError


class TestLost(SoftHsmTokens):
    """The HSM says that it does not know the session."""

    trouble_is = pkcs11.SessionHandleInvalid
