"""Running ``dsvault serve`` as a process of its own, on a free port."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import urllib3

from tests.support import forked, secrecy


@contextmanager
def broker(folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The base URL of a broker that serves this vault; ended by its own process id. Its log is as that of others."""
    if "--workers" in options:
        with running_broker(folder, *options, environment=environment) as (url, _):
            yield url
        return
    with tempfile.TemporaryFile() as file:
        arguments = ["serve", "--port", "0", "--vault", str(folder), *_log_level(options), *options]
        line, process = forked.serve(arguments, {**os.environ, **(environment or {})}, file)
        try:
            yield _url(line, process.join, file)
        finally:
            process.terminate()
            process.join(40)
            file.seek(0)
            secrecy.shown("the log of a broker", file.read())


def _log_level(options: tuple[str, ...]) -> tuple[str, ...]:
    return () if "--log-level" in options else ("--log-level", "info")


def _url(line: str, wait: Callable[[float], object], log: IO[bytes]) -> str:
    """What a broker says first; what its log says where it did not."""
    if not line.startswith("serving on "):
        wait(30)
        log.seek(0)
        raise AssertionError(log.read().decode(errors="replace"))
    return line.removeprefix("serving on ").strip()


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
    command = [python, "-m", "vault_cli.main", "serve", "--port", str(port), "--vault", str(folder)]
    with log.open("w+b") if log is not None else tempfile.TemporaryFile() as file:
        process = subprocess.Popen(
            [*command, *_log_level(options), *options],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        try:
            assert process.stdout is not None
            yield _url(process.stdout.readline(), process.wait, file), process
        finally:
            process.terminate()
            process.communicate(timeout=40)
            file.seek(0)
            secrecy.shown("the log of a broker", file.read())


def counters(endpoint: str) -> dict[str, float]:
    """What a broker counted, by name and labels."""
    text = urllib3.request("GET", endpoint + "/metrics", timeout=60).data.decode()
    return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{.*?\})?) (\S+)$", text, re.MULTILINE)}
