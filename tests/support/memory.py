"""Temporary files in memory: a tenth of the time of a test run would be waiting for the disk, which no test is about."""

import os
import shutil
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Final

__all__ = ["in_memory"]

_MEMORY: Final = Path("/dev/shm")
#: What has to be free there: some gigabytes more than a run takes.
_LEAST_BYTES: Final = 8 << 30
_NAME: Final = "dsvault-tests-"


def in_memory() -> None:
    """Have this process and its children make temporary files in a new directory that is in memory, and gone at its end.

    Where the machine has no room for it they are where they were.
    """
    try:
        _clear()
        found = os.statvfs(_MEMORY)
        if found.f_bavail * found.f_frsize < _LEAST_BYTES:
            return
        folder = Path(tempfile.mkdtemp(prefix=f"{_NAME}{os.getpid()}-", dir=_MEMORY))
    except OSError:
        return
    # multiprocessing has a directory within, which it removes itself at the end: this comes behind that.
    Finalize(None, shutil.rmtree, (folder,), {"ignore_errors": True}, exitpriority=-1000)
    # A server that runs as another user has its directory within.
    folder.chmod(0o711)
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None


def _clear() -> None:
    """Remove what runs that were killed have left there."""
    for left in _MEMORY.glob(f"{_NAME}*-*"):
        pid = left.name.removeprefix(_NAME).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(left, ignore_errors=True)
