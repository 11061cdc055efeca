"""Files that people hand to each other to sign: written whole or not at all, and only where nothing is in the way."""

import os
from pathlib import Path

from vault.encoding import new_id
from vault.errors import InvalidInput

__all__ = ["put_file", "put_new_file"]


def put_new_file(path: Path, data: bytes) -> None:
    """Write a file that must not exist; raises InvalidInput."""
    if path.exists():
        raise InvalidInput(f"{path}: the file exists already; give another one")
    put_file(path, data)


def put_file(path: Path, data: bytes) -> None:
    """Write a file, in the place of what is there."""
    temporary = path.with_name(f".{path.name}-{new_id()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
