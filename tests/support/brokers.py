"""Running ``dsvault serve`` as a process of its own, on a free port."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def broker(folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The base URL of a broker that serves this vault; ended by its own process id."""
    command = [sys.executable, "-m", "vault_cli.main", "serve", "--port", "0", "--vault", str(folder), *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith("serving on "), process.stderr.read()
        yield line.removeprefix("serving on ").strip()
    finally:
        process.terminate()
        process.communicate(timeout=30)
