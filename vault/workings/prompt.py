"""Work that is not waited for beyond a time: what an act still has to tell others is not to hold it up."""

import threading
from collections.abc import Callable

from vault.errors import Unavailable

__all__ = ["within"]


def within(seconds: float, action: Callable[[], object]) -> None:
    """Run an action in a thread of its own, and wait so long for it; raises what it raises.

    Raises Unavailable where it takes longer. It may still end well, for as long as this process lives.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            failures.append(error)

    thread = threading.Thread(target=run, name="dsvault-prompt", daemon=True)
    thread.start()
    thread.join(seconds)
    if failures:
        raise failures[0]
    if thread.is_alive():
        raise Unavailable(f"no answer within {seconds:g} seconds")
