"""OpenBao's transit engine keeps every KMS backend's obligations, on a real server."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.support.faults import proxy
from tests.support.servers import OpenBao
from vault.kms.transit import TransitKms

from .conformance import Connect, KmsConformance, Trouble


class TestTransit(KmsConformance):
    """Through a proxy that can misbehave."""

    @pytest.fixture
    def place(self, bao: OpenBao) -> Iterator[tuple[object, str]]:
        """A proxy before the server, and a mount."""
        with proxy(bao.address) as before:
            yield before, bao.mount()

    @pytest.fixture
    def connect(self, place: tuple[object, str], bao: OpenBao) -> Iterator[Connect]:
        """Clients of one mount."""
        made: list[TransitKms] = []

        def connect() -> TransitKms:
            made.append(TransitKms(place[0].address, place[1], bao.token))  # type: ignore[attr-defined]
            return made[-1]

        yield connect
        for kms in made:
            kms.close()

    @pytest.fixture
    def trouble(self, place: tuple[object, str]) -> Trouble:
        """Trouble between client and server."""

        @contextmanager
        def begin(kind: str) -> Iterator[Callable[[], bool]]:
            place[0].next(kind)  # type: ignore[attr-defined]
            yield lambda: bool(place[0].met)  # type: ignore[attr-defined]
            place[0].next()  # type: ignore[attr-defined]

        return begin
