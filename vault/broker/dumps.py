"""Keeping a broker's memory, where data keys are, out of files and away from other processes of its user."""

import ctypes
import resource
import sys
from typing import Final

from vault.errors import Unavailable

__all__ = ["forbid_core_dumps"]

#: prctl(2); Linux keeps it until the next exec, so that each process asks for it.
_PR_SET_DUMPABLE: Final = 4


def forbid_core_dumps() -> None:
    """Let this process leave no core dump; on Linux no debugger of its own user reads its memory or environment either.

    The limit alone would not do where dumps are piped to a program, which the kernel does whatever the limit says.
    Raises Unavailable where that is refused.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        raise Unavailable("core dumps of this process cannot be forbidden, and they would hold data keys") from error
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise Unavailable("core dumps of this process cannot be forbidden, and they would hold data keys")
