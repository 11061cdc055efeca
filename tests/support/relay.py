"""Lines between a client and a broker: slow ones, that can be held up, and such as tests make of their own."""

import itertools
import socket
import threading
import time
from contextlib import suppress
from typing import Self


class Line:
    """Listens for a client, and serves each connection in a thread of its own; ``target`` is the broker's base URL."""

    def __init__(self) -> None:
        self.target = ""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # A listener that is closed while somebody waits on it goes on waiting: it is woken first.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _run(self) -> None:
        while True:
            try:
                incoming, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(incoming,), daemon=True).start()

    def serve(self, incoming: socket.socket) -> None:
        """One connection."""
        raise NotImplementedError

    @staticmethod
    def pump(source: socket.socket, target: socket.socket) -> None:
        """Pass bytes on until there are no more."""
        with suppress(OSError):
            while data := source.recv(4096):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)


class Balancer(Line):
    """Gives each connection to the next of several brokers that takes it, as a balancer in front of them would.

    ``targets`` are their base URLs, and may change; ``taken`` says who took how many.
    """

    def __init__(self, targets: list[str]) -> None:
        super().__init__()
        self.targets = targets
        self.taken: dict[str, int] = {}
        self._next = itertools.count()

    def serve(self, incoming: socket.socket) -> None:
        targets, first = list(self.targets), next(self._next)
        with incoming:
            for number in range(len(targets)):
                target = targets[(first + number) % len(targets)]
                host, _, port = target.removeprefix("http://").partition(":")
                try:
                    outgoing = socket.create_connection((host, int(port)), timeout=5)
                except OSError:
                    continue
                self.taken[target] = self.taken.get(target, 0) + 1
                outgoing.settimeout(None)
                with outgoing:
                    threading.Thread(target=self.pump, args=(incoming, outgoing), daemon=True).start()
                    self.pump(outgoing, incoming)
                return


class Relay(Line):
    """Passes bytes on to ``target``; answers go out in pieces of 16 KiB with ``pause`` seconds before each.

    After ``most`` bytes of answers a line is silent until ``going`` is set; buffers are small, so that whoever sends
    soon has to wait. Without a target it ends every connection.
    """

    def __init__(self, pause: float = 0.0, most: int | None = None) -> None:
        super().__init__()
        self.pause = pause
        self.most = most
        self.sent = 0
        self.silent = threading.Event()
        self.going = threading.Event()

    def __exit__(self, *_: object) -> None:
        self.going.set()
        super().__exit__()

    def serve(self, incoming: socket.socket) -> None:
        host, _, port = self.target.removeprefix("http://").partition(":")
        with incoming, socket.socket() as outgoing:
            if not port:
                return
            outgoing.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
            with suppress(OSError):
                outgoing.connect((host, int(port)))
                threading.Thread(target=self.pump, args=(incoming, outgoing), daemon=True).start()
                while data := outgoing.recv(16 << 10):
                    time.sleep(self.pause)
                    self.sent += len(data)
                    if self.most is not None and self.sent > self.most:
                        self.silent.set()
                        self.going.wait()
                    if not self.target:
                        break
                    incoming.sendall(data)
                incoming.shutdown(socket.SHUT_RDWR)
