"""The catalog as whoever can write its file has it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Lab

__all__ = ["sql"]


@contextmanager
def sql(lab: "Lab") -> Iterator[sqlite3.Connection]:
    """A plain connection to the catalog's file, foreign keys off, as an attacker has it."""
    connection = sqlite3.connect(lab.folder / "catalog.db")
    try:
        yield connection
        connection.commit()
    finally:
        connection.close()
