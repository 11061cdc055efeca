"""A broker in a confined process: no core dumps, no file that it may write, no memory that is both written and run."""

import ctypes
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import urllib3

from tests.conftest import Lab
from tests.support.brokers import running_broker
from vault import client
from vault.broker import forbid_core_dumps
from vault.errors import Unavailable

_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="prctl, namespaces and /proc are Linux's")
_PR_GET_DUMPABLE = 3
#: prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN), which systemd's MemoryDenyWriteExecute stands for; Linux 6.3.
_DENY = "import ctypes, os, sys; os._exit(9) if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) else os.execv(sys.argv[1], sys.argv[1:])"


def _core_limits(process: int) -> list[str]:
    lines = Path(f"/proc/{process}/limits").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("Max core file size"))
    return line.split()[4:6]


def _children(process: int) -> list[int]:
    found = []
    for each in Path("/proc").glob("[0-9]*/status"):
        try:
            text = each.read_text()
        except OSError:
            continue
        if f"\nPPid:\t{process}\n" in text:
            found.append(int(each.parent.name))
    return found


@_LINUX
def test_a_broker_and_its_workers_leave_no_core_dump(granted: Lab) -> None:
    """Whatever its environment allows, the limit is 0 in each process that serves."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard == 0:
        pytest.skip("core dumps are forbidden on this machine already, so that there is nothing to forbid")
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        with running_broker(granted.folder, "--workers", "2") as (_, process):
            workers = [each for each in _children(process.pid) if b"spawn_main" in _command(each)]
            assert len(workers) == 2
            assert [_core_limits(each) for each in (process.pid, *workers)] == [["0", "0"]] * 3
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


def _command(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()


@_LINUX
def test_nobody_of_its_user_reads_its_memory() -> None:
    """The process is not dumpable, as prctl says, which also closes /proc/PID/mem and environ to its user."""
    script = (
        "import ctypes\nfrom vault.broker import forbid_core_dumps\nforbid_core_dumps()\n"
        f"print(ctypes.CDLL(None).prctl({_PR_GET_DUMPABLE}, 0, 0, 0, 0))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "0\n"
    assert ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 1


def test_a_broker_that_cannot_forbid_them_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, and nothing is opened."""

    def refused(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(resource, "setrlimit", refused)
    with pytest.raises(Unavailable, match="core dumps"):
        forbid_core_dumps()


_MEMORY = "/dev/shm"


def _may_unshare() -> bool:
    """Whether this machine lets a process have a view of the file system of its own."""
    if shutil.which("unshare") is None:
        return False
    made = ["unshare", "--map-root-user", "--mount", "sh", "-c", "mount -o remount,ro,bind /"]
    return subprocess.run(made, capture_output=True, timeout=20, check=False).returncode == 0


@_LINUX
def test_a_broker_serves_on_a_read_only_root(granted: Lab, tmp_path: Path) -> None:
    """With no file system that it may write but the catalog's own directory, and no temporary one, it serves."""
    if not _may_unshare():
        pytest.skip("this machine lets nobody but root of its own have a mount namespace")
    # SQLite writes beside its file; with PostgreSQL nothing is left to write. The catalog alone is mounted writable.
    catalog = tmp_path / "writable"
    catalog.mkdir()
    shutil.move(granted.folder / "catalog.db", catalog / "catalog.db")
    (granted.folder / "catalog.db").symlink_to(catalog / "catalog.db")
    inside = (
        f"mount --bind {catalog} {catalog} && mount -o remount,ro,bind / && "
        # Where the tests' files are in memory, that is a file system of its own.
        f"if mountpoint -q {_MEMORY}; then mount -o remount,ro,bind,nosuid,nodev {_MEMORY}; fi && "
        f'! touch {granted.folder}/x 2>/dev/null && ! touch /tmp/x-{os.getpid()} 2>/dev/null && exec "$@"'
    )
    wrapper = tmp_path / "python"
    wrapper.write_text(
        f'#!/bin/sh\nset -- {sys.executable} "$@"\nexec unshare --map-root-user --mount sh -c \'{inside}\' sh "$@"\n'
    )
    wrapper.chmod(0o700)
    environment = {
        "TMPDIR": "/nonexistent",
        "DSVAULT_CATALOG": f"sqlite:///{catalog / 'catalog.db'}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with running_broker(granted.folder, environment=environment, python=str(wrapper)) as (endpoint, _):
        acme = client.connect(granted.profile("acme", endpoint))
        assert acme.dataset("evals").to_arrow().num_rows == 50
        assert urllib3.request("GET", f"{endpoint}/readyz").status == 200


@_LINUX
def test_a_broker_serves_without_memory_that_is_written_and_run(granted: Lab, tmp_path: Path) -> None:
    """As under systemd's MemoryDenyWriteExecute: neither Arrow nor anything else here makes code at run time."""
    wrapper = tmp_path / "python"
    wrapper.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{_DENY}' {sys.executable} \"$@\"\n")
    wrapper.chmod(0o700)
    if subprocess.run([wrapper, "-c", ""], timeout=60, check=False).returncode == 9:
        pytest.skip("this kernel cannot deny it (Linux 6.3 can)")
    with running_broker(granted.folder, python=str(wrapper)) as (endpoint, _):
        acme = client.connect(granted.profile("acme", endpoint))
        assert acme.dataset("evals").to_arrow(where="id > 3").num_rows > 10
