"""The one dataset that every reader is shown, and a broker that serves it."""

from collections.abc import Iterator

import pytest

from tests.conftest import Lab
from tests.support.shown import Shown, shown


@pytest.fixture
def given(lab: Lab) -> Iterator[Shown]:
    """What acme may read of it."""
    with shown(lab) as found:
        yield found
