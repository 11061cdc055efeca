"""What the client refuses, as those errors that callers of a file system expect, with the same words.

Each is both: who catches `NotGranted` and who catches `FileNotFoundError` finds it. Unknown and forbidden are the same.
Of a FileNotFoundError pandas and pyarrow tell the path and no word more. So it is raised where there is no such file,
and nowhere else: what is wrong with a storage option is a ValueError, which every tool but DuckDB hands on as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vault.errors import Frozen, InvalidInput, LimitReached, NotFound, NotGranted, Unauthenticated, VaultError

__all__ = ["BadOption", "FileNotGranted", "NoFile", "ReadOnly", "as_a_file_system_says"]


class FileNotGranted(NotGranted, FileNotFoundError):
    """There is no such file, or none that is granted."""


class FilesFrozen(Frozen, PermissionError):
    """The vendor is frozen."""


class FilesUnauthenticated(Unauthenticated, PermissionError):
    """The credential is not valid any more."""


class FileLimitReached(LimitReached, PermissionError):
    """The grant's limit is used up."""


class BadOption(InvalidInput, ValueError):
    """What was asked for cannot be; not an error of the file's, of which tools would tell its name alone."""


class NoFile(InvalidInput, IsADirectoryError):
    """It is a directory."""


class ReadOnly(InvalidInput, PermissionError):
    """Nothing can be written here."""


_FAMILIES: Final[tuple[tuple[type[VaultError], type[VaultError]], ...]] = (
    (NotGranted, FileNotGranted),
    (NotFound, FileNotGranted),
    (Frozen, FilesFrozen),
    (Unauthenticated, FilesUnauthenticated),
    (LimitReached, FileLimitReached),
    (InvalidInput, BadOption),
)


@contextmanager
def as_a_file_system_says() -> Iterator[None]:
    """Raise what the block refuses as an error of a file system, where there is one for it."""
    try:
        yield
    except (OSError, ValueError):
        raise
    except VaultError as error:
        for family, shown in _FAMILIES:
            if isinstance(error, family):
                raise shown(str(error)) from error
        raise
