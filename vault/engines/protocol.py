"""What the verbs ask of processes that do parts of their work elsewhere."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

__all__ = ["Workers"]


class Workers(Protocol):
    """Other processes that open the vault by their own configuration and under their own KMS identity."""

    def map(self, job: str, step: int, parcels: Iterable[bytes], idle: Callable[[], object]) -> Iterator[bytes]:
        """The reply to each sealed task of a job's step, in their order; ``idle`` is called now and then while none
        comes. A task may be done more than once. Raises Unavailable where one could not be done.
        """
        ...
