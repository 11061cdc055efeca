"""A program that performs one change of a keystore many times and dies before each of its system calls in turn.

``killed.py BASE WORK CHANGE KEY``: for k = 1, 2, ... it copies BASE to WORK/k and performs the change there in a child
that ends, as by kill -9, before its k-th call; the last copy is the one where the change was completed.
"""

import itertools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vault.kms import LocalKms

CHEAP = 2**14
CALLS = ("open", "fsync", "link", "replace", "unlink", "pwrite", "close")
OLD, NEW = "the old one", "the new one"


def die_before(limit: int) -> None:
    """End the process before the ``limit``-th of the calls that change or secure a file."""
    count = itertools.count(1)

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if next(count) == limit:
                os._exit(9)
            return real(*args, **options)

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def change(folder: Path, what: str, key: str) -> None:
    """Perform the change that the command line names."""
    kms = LocalKms(folder / "owner", folder / "broker", OLD, scrypt_n=CHEAP)
    if what == "create":
        kms.create_key("somebody")
    elif what == "change_passphrase":
        kms.change_passphrase(NEW)
    else:
        getattr(kms, what)(key)


def main(base: Path, work: Path, what: str, key: str) -> None:
    """Go on until a child is done before its death."""
    for limit in itertools.count(1):
        folder = work / str(limit)
        shutil.copytree(base, folder)
        child = os.fork()
        if child == 0:
            die_before(limit)
            change(folder, what, key)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != 9:
            sys.exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
