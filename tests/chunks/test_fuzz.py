"""A short run of the fuzz target; `make fuzz` runs it a million times."""

import random

from tests.chunks.fuzz import attack


def test_no_altered_chunk_passes_the_parser() -> None:
    """Thousands of alterations of several kinds are each refused with an IntegrityError and nothing else."""
    assert attack(6000, random.SystemRandom().randrange(2**32)) > 5000
