"""A process that reads ranges of the log for another one of the same owner.

It is told on its standard input what to read and with which keys, and answers on its standard output; neither its
arguments nor its environment say anything of that. It ends with its input.
"""

import pickle
import signal
import sys
from typing import Any, BinaryIO

from vault import errors
from vault.audit import Opener
from vault.catalog import open_catalog
from vault.errors import VaultError
from vault.incident.ranges import Asked, read_range

__all__ = ["main", "raised"]


def main(asks: BinaryIO, answers: BinaryIO) -> None:
    """Answer until nothing more is asked: what is read for and a pair of numbers, with a range or what went wrong."""
    catalog = open_catalog(pickle.load(asks))  # noqa: S301 - from the process that started this one
    openers: dict[Asked, Opener] = {}
    try:
        while True:
            asked, after, last = pickle.load(asks)  # noqa: S301
            opener = openers.setdefault(asked, Opener(asked.vault, asked.secrets))
            pickle.dump(_answer(catalog, opener, asked, after, last), answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()
    except (EOFError, BrokenPipeError):
        return  # nobody asks any more
    finally:
        catalog.close()


def _answer(catalog: Any, opener: Opener, asked: Asked, after: int, last: int) -> Any:
    try:
        return read_range(catalog, opener, asked, after, last)
    except VaultError as error:
        return type(error).__name__, str(error)


def raised(answer: Any) -> VaultError | None:
    """What went wrong in the other process, as it is to be raised here."""
    if not isinstance(answer, tuple):
        return None
    kind = getattr(errors, answer[0], VaultError)
    found: VaultError = kind(answer[1])
    return found


if __name__ == "__main__":
    # Who started it stops it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(sys.stdin.buffer, sys.stdout.buffer)
