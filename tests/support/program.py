"""The program ``dsvault``: in this process, or as a process of its own where a test is about one.

Both go in by the same function, and what they print is looked through for secrets alike. A process takes a second or
two on a busy machine before it does anything, so that stories of forty commands are told in this one.
"""

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tests.support import secrecy
from vault_cli.main import run

__all__ = ["Done", "document", "dsvault", "dsvault_process"]


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


class _Captured(io.TextIOWrapper):
    """What is written to it as text, or as bytes to what is beneath."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def text(self) -> str:
        self.seek(0)
        return self.read()


def dsvault(
    *words: object,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: str = "",
) -> Done:
    """Run a command in this process, through the function that the installed program calls."""
    out, told = _Captured(), _Captured()
    with (
        _urllib3_as_it_was(),
        contextlib.chdir(cwd or Path.cwd()),
        mock.patch.dict(os.environ, environment or {}),
        mock.patch.object(sys, "argv", ["dsvault", *map(str, words)]),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(told),
    ):
        try:
            run()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    done = Done(code, out.text(), told.text())
    secrecy.shown("what a command of ours prints to stdout", done.stdout, values=False)
    secrecy.shown("what a command of ours prints to stderr", done.stderr)
    return done


def dsvault_process(*words: object, cwd: Path, environment: Mapping[str, str] | None = None) -> Done:
    """Run a command as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "vault_cli.main", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def document(*words: object, cwd: Path | None = None) -> Any:
    """Run with --json; stdout is one JSON document."""
    done = dsvault(*words, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextlib.contextmanager
def _urllib3_as_it_was() -> Iterator[None]:
    """The program tells less of its connections for as long as it runs."""
    logger = logging.getLogger("urllib3")
    level = logger.level
    try:
        yield
    finally:
        logger.setLevel(level)
