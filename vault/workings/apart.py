"""Decoding a table that somebody else made, in a process of its own with bounds on memory, time and files.

What a vendor sends is authenticated, and the vendor's all the same: a few bytes of Parquet can stand for any amount of
rows, and a decoder that meets what no writer writes may end its process. So it is decoded where that hurts nobody: the
child has one table's key and ciphertext, by a pipe, and none of the owner's keys, nor of its environment but where
libraries are; it can write no file, and what it answers is bounded and checked here as if a stranger had sent it.
"""

import os
import resource
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Final

import pyarrow as pa

from vault.chunks import decode
from vault.encoding import canonical, from_canonical
from vault.errors import IntegrityError, InvalidInput
from vault.model import Identity

__all__ = ["MOST_BYTES", "decoded_apart"]

#: Bytes of Arrow memory that a table may have.
MOST_BYTES: Final = 1 << 30
#: Of the child: address space, of which some is libraries, and seconds of the processor and of the clock.
_MEMORY: Final = 4 << 30
_CPU_SECONDS, _SECONDS = 300, 600
_SIZE: Final = struct.Struct(">Q")
_GOOD, _BAD = b"\x01", b"\x00"
_ENVIRONMENT: Final = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
#: What Python and Arrow's libraries may need to be found and to start; no secret is in any of them.
_INHERITED: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "SYSTEMROOT")


def decoded_apart(
    data: memoryview, key: bytes, identity: Identity, schema: pa.Schema, most: int = MOST_BYTES
) -> pa.Table:
    """`vault.chunks.decode` of what cannot be trusted to be harmless.

    Raises IntegrityError for what is not the whole, unchanged file of this key and identity, and InvalidInput for a
    table that is larger than ``most`` bytes or cannot be decoded within the bounds.
    """
    asked = canonical(key, identity.chunk, identity.encode(), schema.serialize().to_pybytes())
    # No module of the directory that it is started in is found: that may be where a vendor's files are.
    with subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
        close_fds=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ending = threading.Timer(_SECONDS, process.kill)
        ending.start()
        feeding = threading.Thread(target=_feed, args=(process.stdin, asked, data), daemon=True)
        feeding.start()
        try:
            # Columns have their lengths and their borders besides.
            answer = process.stdout.read(most + (most >> 2) + (1 << 20))
        finally:
            ending.cancel()
            process.kill()
    return _table(answer, schema, most)


def _environment() -> dict[str, str]:
    """What the child sees of the owner's environment, in which passphrases, tokens and cloud keys may stand."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**inherited, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _feed(pipe: IO[bytes], asked: bytes, data: memoryview) -> None:
    with suppress(OSError), pipe:
        pipe.write(_SIZE.pack(len(asked)) + asked)
        pipe.write(data)


def _table(answer: bytes, schema: pa.Schema, most: int) -> pa.Table:
    if answer[:1] == _BAD:
        raise IntegrityError("the rows of the submission do not open: they were changed, or are not what was signed")
    try:
        if answer[:1] != _GOOD:
            raise pa.ArrowInvalid("nothing came")
        table = pa.ipc.open_stream(pa.py_buffer(answer)[1:]).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidInput(
            f"the rows of the submission cannot be decoded within {most >> 20} MiB: they are too many, too large, or "
            "made to do harm"
        ) from error
    if table.schema != schema.remove_metadata() or table.nbytes > most:
        raise InvalidInput("the rows of the submission are not of the columns that it says, or too large")
    return table


@dataclass(frozen=True, slots=True)
class _Identity:
    chunk: str
    encoded: bytes

    def encode(self) -> bytes:
        return self.encoded


def _bound() -> None:
    for what, most in (
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_CPU, _CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):  # a system that does not know one has the others
            resource.setrlimit(what, (most, most))


def _main() -> None:
    """What the child does."""
    _bound()
    pa.set_cpu_count(1)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    (length,) = _SIZE.unpack(source.read(_SIZE.size))
    key, chunk, encoded, schema = from_canonical(source.read(length))
    data = source.read()
    try:
        wanted = pa.ipc.read_schema(pa.py_buffer(schema))
        table = decode(data, key, _Identity(chunk.decode(), encoded), wanted)
    except IntegrityError:
        sink.write(_BAD)
        return
    sink.write(_GOOD)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


if __name__ == "__main__":
    _main()
