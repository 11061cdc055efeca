"""A PostgreSQL server in a throwaway directory, where the package is installed.

One for each process of tests, in which each test has a database of its own. The server refuses to run as root: then it
runs as the user that the package has made.
"""

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import free_port
from vault.encoding import new_id

__all__ = ["Postgres", "postgres", "start_postgres"]

_USER = "postgres"


@dataclass(frozen=True)
class Postgres:
    """A running server on loopback."""

    port: int

    def database(self) -> str:
        """The SQLAlchemy URL of a new, empty database."""
        import psycopg

        name = f"test_{new_id()[:12]}"
        with psycopg.connect(f"host=127.0.0.1 port={self.port} user={_USER} dbname=postgres", autocommit=True) as found:
            found.execute(f"create database {name}".encode())
        return f"postgresql+psycopg://{_USER}@127.0.0.1:{self.port}/{name}"


def _programs() -> Path | None:
    """The directory of the server's own programs, which packages keep off the path."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: float(place.parent.name), reverse=True)
    found = shutil.which("initdb")
    return next((place for place in places if (place / "initdb").exists()), Path(found).parent if found else None)


def postgres() -> Postgres:
    """The server of this process; skips the test where there is none to be had."""
    server = start_postgres()
    if server is None:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    return server


@functools.cache
def start_postgres() -> Postgres | None:
    """The server of this process, or None where there is none to be had."""
    programs = _programs()
    if programs is None:
        return None
    folder = Path(tempfile.mkdtemp(prefix="dsvault-pg-"))
    if os.geteuid() == 0:
        shutil.chown(folder, _USER)
    data, port = folder / "data", free_port()
    _run(folder, programs / "initdb", "-D", data, "-U", _USER, "-A", "trust", "-E", "UTF8", "--no-sync")
    settings = f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories={folder}"
    _run(folder, programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", settings, "start")

    def stop() -> None:
        _run(folder, programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    return Postgres(port)


def _run(folder: Path, *command: "str | Path") -> None:
    other: dict[str, Any] = {"user": _USER, "group": _USER, "extra_groups": []} if os.geteuid() == 0 else {}
    # Its output would be kept open by the server that it starts.
    quiet = subprocess.DEVNULL
    subprocess.run([str(each) for each in command], check=True, timeout=120, cwd=folder, stdout=quiet, **other)
