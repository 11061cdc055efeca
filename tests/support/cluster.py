"""One Ray cluster of two worker processes for all processes of a test run: whoever needs it first starts it.

It is started as dsvault starts one, stands by itself, and ends when the last test process that uses it has gone.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PATIENCE = 280.0


@dataclass(frozen=True)
class Cluster:
    """Where the cluster is, how to be let in, and the process that started it."""

    address: str
    token: str
    pid: int
    session: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to join."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "cli"), os.environ.get("PYTHONPATH", "")]),
        }


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """The cluster of a test run, whose processes share a folder."""
    users = folder / "users"
    users.mkdir(parents=True, exist_ok=True)
    own, state = users / str(os.getpid()), folder / "cluster.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        own.touch()
        if not state.exists():
            command = [sys.executable, "-m", "tests.support.cluster", str(folder)]
            environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "DSVAULT"))}
            environment["PYTHONPATH"] = Cluster("", "", 0, "").environment["PYTHONPATH"]
            subprocess.run(command, check=True, timeout=_PATIENCE, cwd=_ROOT, env=environment)
        found = Cluster(**json.loads(state.read_text()))
    try:
        yield found
    finally:
        own.unlink()


def _stand(folder: Path) -> None:
    """Be the process that started the cluster, until nobody uses it."""
    from vault.engines import RayEngine

    RayEngine(workers=2)
    import ray

    context = ray.get_runtime_context()
    session = ray._private.worker._global_node.get_session_dir_path()
    found = {"address": context.gcs_address, "token": os.environ["RAY_AUTH_TOKEN"], "pid": os.getpid()}
    state = folder / "cluster.json"
    descriptor = os.open(folder / "starting", os.O_WRONLY | os.O_CREAT, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(found | {"session": session}, file)
    (folder / "starting").rename(state)
    while any(_alive(int(path.name)) for path in (folder / "users").iterdir()):
        time.sleep(0.2)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state.unlink()
    ray.shutdown()
    shutil.rmtree(session, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _main() -> None:
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:
        _stand(folder)
        return
    # Ray gives its own processes 30 seconds to start, which a busy machine may not have.
    if not any(_started(folder) for _ in range(4)):
        raise SystemExit((folder / "log").read_text())


def _started(folder: Path) -> bool:
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.cluster", str(folder), "stand"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while not (folder / "cluster.json").exists():
        if process.poll() is not None:
            return False
        time.sleep(0.1)
    return True


if __name__ == "__main__":
    _main()
