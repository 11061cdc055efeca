"""Small files that commands read."""

from pathlib import Path

from vault.errors import InvalidInput

__all__ = ["MOST_BYTES", "read_bytes"]

#: Far more than a checkpoint or a proof has.
MOST_BYTES = 16 << 20


def read_bytes(path: Path, option: str, most: int = MOST_BYTES) -> bytes:
    """A file's bytes; raises InvalidInput, naming the option, where it cannot be read or is too large to be meant."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise InvalidInput(f"{option}: {path} cannot be read ({error.strerror})") from error
    if len(data) > most:
        raise InvalidInput(f"{option}: {path} is too large to be what is asked for")
    return data
