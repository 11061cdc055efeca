"""Processes of a Ray cluster: a thin map with retries.

Everything that is sent and comes back is bytes that somebody else has sealed: Ray keeps arguments and results in its
object store, spills them to disk and sends them in the clear. What a task raises does not leave the cluster as it is
either, since Ray would pickle it: it becomes a sentence here. A cluster that is started here listens on the loopback
interface alone, under a token of its own, and ends with this process.
"""

import os
import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, final

from vault.errors import InvalidInput, Unavailable

__all__ = ["RayEngine"]

_LOOPBACK: Final = "127.0.0.1"
#: How often a task is done again whose worker died, or that could not reach the store, the catalog or the KMS.
_RETRIES: Final = 3
_IDLE_SECONDS: Final = 5.0
#: How long a cluster may take to answer at all.
_ANSWER_SECONDS: Final = 10.0
#: Sealed tasks and results are small.
_OBJECT_STORE_BYTES: Final = 128 << 20


@final
class RayEngine:
    """Maps a function over tasks on a Ray cluster: the one at ``address``, the one that this process has joined
    already, or one that is started here with ``workers`` processes (by default one for each core).

    Raises InvalidInput where Ray is not installed or there is no cluster at the address, and Unavailable where none
    could be started.
    """

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        fresh = address is None and not _joined()
        if fresh:
            _keep_to_loopback()
        try:
            import ray
        except ImportError as error:
            raise InvalidInput("--engine ray: Ray is not installed; pip install 'dsvault[ray]'") from error
        self._ray: Any = ray
        if fresh:
            self._start(workers)
        elif not self._ray.is_initialized():
            self._join(str(address))
        self.workers = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self._task: Any = self._ray.remote(num_cpus=1, max_retries=_RETRIES, retry_exceptions=[Unavailable])(_call)

    def _start(self, workers: int | None) -> None:
        if self._ray.util.get_node_ip_address() != _LOOPBACK:
            raise InvalidInput(
                "--engine ray: Ray was imported before the vault was opened, and would listen beyond this machine; "
                "open the vault first, or start a cluster and name it with --ray-address"
            )
        try:
            self._ray.init(
                num_cpus=workers or os.cpu_count() or 1,
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
            )
        except Exception as error:
            raise Unavailable("--engine ray: a cluster could not be started on this machine; try again") from error

    def _join(self, address: str) -> None:
        _refuse_deaf(address)
        try:
            self._ray.init(address=address, log_to_driver=False, configure_logging=False)
        except Exception as error:
            raise InvalidInput(
                f"--ray-address: there is no Ray cluster that can be joined ({type(error).__name__})"
            ) from error

    def map(
        self, function: Callable[..., bytes], tasks: Iterable[tuple[Any, ...]], idle: Callable[[], object]
    ) -> Iterator[bytes]:
        """What the function, one that can be imported, gives for each task's arguments, in their order.

        At most two tasks for each worker run or wait unread. Raises Unavailable where a task fails for good; then, and
        where the map is closed early, what still waits is cancelled.
        """
        waiting: deque[Any] = deque()
        try:
            for task in tasks:
                waiting.append(self._task.remote(function, *task))
                if len(waiting) >= 2 * self.workers:
                    yield self._result(waiting.popleft(), idle)
            while waiting:
                yield self._result(waiting.popleft(), idle)
        finally:
            for reference in waiting:
                with suppress(self._ray.exceptions.RayError, ValueError):
                    self._ray.cancel(reference)

    def _result(self, reference: Any, idle: Callable[[], object]) -> bytes:
        while not self._ray.wait([reference], timeout=_IDLE_SECONDS)[0]:
            idle()
        try:
            return bytes(self._ray.get(reference))
        except self._ray.exceptions.RayTaskError as error:
            raise Unavailable(_sentence(error)) from None
        except self._ray.exceptions.RayError as error:
            lost = f"a worker of the Ray cluster was lost again and again ({type(error).__name__})"
            raise Unavailable(lost) from None


def _sentence(error: Any) -> str:
    """Of what a task raised only the kind: its text is not one of ours, or says which node it was."""
    if isinstance(error.cause, Unavailable):
        return "workers of the Ray cluster could not reach the store, the catalog or the KMS"
    return f"a worker of the Ray cluster failed ({type(error.cause).__name__})"


def _call(function: Callable[..., bytes], *arguments: Any) -> bytes:
    return function(*arguments)


def _refuse_deaf(address: str) -> None:
    """Raise InvalidInput where nothing listens at a host and port: Ray would wait for it for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return  # Ray's own words, such as ``auto``
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InvalidInput(
            f"--ray-address: nothing answers at {host[:80]}:{port[:5]}; is the cluster running?"
        ) from error


def _joined() -> bool:
    import sys

    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _keep_to_loopback() -> None:
    """What the processes of a new cluster inherit: no listening beyond this machine, a token, and nothing reported."""
    # Off Linux Ray does this by itself, and calls it so; here it has to be asked.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
