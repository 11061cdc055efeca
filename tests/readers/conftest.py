"""The one dataset that every reader is shown, and a broker that serves it."""

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Lab
from tests.support.shown import Shown, publish, shown


@pytest.fixture
def given(cast: Callable[..., Lab]) -> Iterator[Shown]:
    """What acme may read of it."""
    with shown(cast(publish)) as found:
        yield found
