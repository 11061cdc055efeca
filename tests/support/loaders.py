"""Loaders of torch as tests use them up."""

from contextlib import suppress
from typing import Any

__all__ = ["drained"]


def drained(loader: Any) -> list[Any]:
    """All that it loads. Its workers have ended then, also where it fails: left to the garbage collector, that they were
    broken off would be said in the midst of another test.
    """
    loading = iter(loader)
    try:
        return list(loading)
    finally:
        with suppress(RuntimeError):
            loading._shutdown_workers()
