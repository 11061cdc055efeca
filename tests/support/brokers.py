"""Running ``dsvault serve`` as a process of its own, on a free port."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import urllib3

from tests.support import secrecy


@contextmanager
def broker(folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The base URL of a broker that serves this vault; ended by its own process id."""
    with running_broker(folder, *options, environment=environment) as (url, _):
        yield url


@contextmanager
def running_broker(
    folder: Path,
    *options: str,
    port: int = 0,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    python: str = sys.executable,
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The same with its process, which a test may end itself.

    It logs every request, into ``log`` or another file, since a pipe that nobody empties would stop it; no secret may be
    in there.
    """
    told = () if "--log-level" in options else ("--log-level", "info")
    command = [python, "-m", "vault_cli.main", "serve", "--port", str(port), "--vault", str(folder)]
    with log.open("w+b") if log is not None else tempfile.TemporaryFile() as file:
        process = subprocess.Popen(
            [*command, *told, *options],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("serving on "):
                process.wait(timeout=30)
                file.seek(0)
                raise AssertionError(file.read().decode(errors="replace"))
            yield line.removeprefix("serving on ").strip(), process
        finally:
            process.terminate()
            process.communicate(timeout=40)
            file.seek(0)
            secrecy.shown("the log of a broker", file.read())


def counters(endpoint: str) -> dict[str, float]:
    """What a broker counted, by name and labels."""
    text = urllib3.request("GET", endpoint + "/metrics").data.decode()
    return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{.*?\})?) (\S+)$", text, re.MULTILINE)}
