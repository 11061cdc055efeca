"""Running ``dsvault serve`` as a process of its own, on a free port."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support import secrecy


@contextmanager
def broker(folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The base URL of a broker that serves this vault; ended by its own process id.

    It logs every request, into a file, since a pipe that nobody empties would stop it; no secret may be in there.
    """
    told = () if "--log-level" in options else ("--log-level", "info")
    command = [sys.executable, "-m", "vault_cli.main", "serve", "--port", "0", "--vault", str(folder), *told, *options]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **(environment or {})}
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("serving on "):
                process.wait(timeout=30)
                log.seek(0)
                raise AssertionError(log.read().decode(errors="replace"))
            yield line.removeprefix("serving on ").strip()
        finally:
            process.terminate()
            process.communicate(timeout=30)
            log.seek(0)
            secrecy.shown("the log of a broker", log.read())
