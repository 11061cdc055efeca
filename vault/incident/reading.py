"""Reading the whole log for one vendor, with as many processes as there are processors.

Every byte that is believed is one that was verified: the processes that open entries hash the very same ones, and the
hashes are held against the signed end of the log and the checkpoints in the store, as `Journal.verify` does. What is
gathered is given out only after that.
"""

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, Final

from vault.audit import Opener, Pinned, Tail, verify_hashes
from vault.catalog import Catalog
from vault.errors import IntegrityError, NotFound, Unavailable
from vault.exposure import Gathering
from vault.incident.process import raised
from vault.incident.ranges import Asked, Range, read_range

__all__ = ["gather"]

#: Entries that are read at a time.
RANGE: Final = 25_000
#: A log of so many entries is read by this process alone: another one takes half a second to start.
ALONE: Final = 50_000
_LOOKED: Final = 1000
_HASH: Final = 32
_Submit = Callable[[Asked, int, int], "Future[Range]"]


def gather(
    catalog: Catalog,
    tail: Tail,
    pinned: list[Pinned],
    asked: Asked,
    *,
    processes: int | None = None,
    size: int = RANGE,
) -> Gathering:
    """Everything that the log says of the vendor with a name, up to its signed end.

    Raises NotFound where the log knows none of that name; IntegrityError naming what of the log does not verify; and
    Unavailable. ``processes`` is how many read, by default as many as there are processors.
    """
    last = tail.checkpoint.size
    count = processes or (1 if last <= ALONE else _processors())
    with _readers(catalog, count) as submit:

        def read(task: Asked, size: int) -> Iterator[Range]:
            return _in_order(lambda after, up_to: submit(task, after, up_to), 2 * count, last=last, size=size)

        # Vendors are mostly added early: what is read for that alone is little.
        vendor = asked.vendor or _vendor(read(asked, min(size, _LOOKED)), asked.name or "")
        return _verified(read(replace(asked, vendor=vendor, name=None), size), tail, pinned)


def _vendor(ranges: Iterator[Range], name: str) -> str:
    """The id of the vendor of a name, from the first entry that says that one was added."""
    for each in ranges:
        if each.found is not None:
            return each.found
    raise NotFound(f"the log knows no vendor named '{name[:80]}'")


def _verified(ranges: Iterator[Range], tail: Tail, pinned: list[Pinned]) -> Gathering:
    """What all ranges say together, once they are known to be the log."""
    whole: Gathering | None = None

    def hashes() -> Iterator[list[bytes]]:
        nonlocal whole
        before = ""
        for each in ranges:
            if each.first_time < before:
                raise IntegrityError(f"log entry {each.after + 1} is from before the one that it follows")
            before = each.last_time
            if whole is None:
                whole = each.gathered
            else:
                whole.take(each.gathered)
            yield [each.hashes[at : at + _HASH] for at in range(0, len(each.hashes), _HASH)]

    verify_hashes(hashes(), tail, pinned)
    if whole is None:
        raise NotFound("the log is empty")
    return whole


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _in_order(submit: Callable[[int, int], "Future[Range]"], most: int, *, last: int, size: int) -> Iterator[Range]:
    """The ranges up to the last entry, in their order, a few of them ahead."""
    waiting: deque[Future[Range]] = deque()
    for after in range(0, last, size):
        if len(waiting) >= most:
            yield waiting.popleft().result()
        waiting.append(submit(after, min(after + size, last)))
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def _readers(catalog: Catalog, count: int) -> Iterator[_Submit]:
    """What reads a range sometime, with several each in a process of its own."""
    if count == 1:
        openers: dict[Asked, Opener] = {}

        def at_once(asked: Asked, after: int, last: int) -> "Future[Range]":
            opener = openers.setdefault(asked, Opener(asked.vault, asked.secrets))
            return _done(read_range(catalog, opener, asked, after, last))

        yield at_once
        return
    with ExitStack() as stack:
        # Left in the reverse order: nothing new is begun, the processes end, and so do the threads that wait for them.
        threads = stack.enter_context(ThreadPoolExecutor(count))
        free: SimpleQueue[_Process] = SimpleQueue()
        for _ in range(count):
            free.put(stack.enter_context(_Process(catalog.url)))
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)

        def read(asked: Asked, after: int, last: int) -> Range:
            process = free.get()
            try:
                return process.read(asked, after, last)
            finally:
                free.put(process)

        yield lambda asked, after, last: threads.submit(read, asked, after, last)


def _done(found: Range) -> "Future[Range]":
    future: Future[Range] = Future()
    future.set_result(found)
    return future


class _Process:
    """Another process that reads ranges; keys go to it by a pipe, and by nothing that others can see."""

    def __init__(self, url: str) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "vault.incident.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("DSVAULT_DEBUG") else subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths},
        )
        try:
            self._tell(url)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def _tell(self, what: Any) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(what, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise Unavailable("a process that reads the log ended early") from error

    def read(self, asked: Asked, after: int, last: int) -> Range:
        """One range; raises what went wrong there."""
        assert self._process.stdout is not None
        self._tell((asked, after, last))
        try:
            answer = pickle.load(self._process.stdout)  # noqa: S301 - from the process that was started here
        except (EOFError, pickle.UnpicklingError) as error:
            raise Unavailable("a process that reads the log ended early") from error
        wrong = raised(answer)
        if wrong is not None:
            raise wrong
        found: Range = answer
        return found
