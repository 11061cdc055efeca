"""``dsvault audit export``, and where it writes."""

import fcntl
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from vault_cli.opening import open_vault
from vault_cli.options import Json, VaultDir
from vault_cli.output import emit, note

if TYPE_CHECKING:
    from vault.siem import Format

__all__ = ["export"]

_LOOK_SECONDS = 1.0
_TAIL_BYTES = 1 << 16


def export(
    form: Annotated[str, typer.Option("--format", metavar="ocsf|jsonl", help="What a line is.")] = "jsonl",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Append to this file, behind the last entry in it."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="SEQ|T", help="Behind this entry's number, or from a time in UTC or 12h ago on."
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what is appended, until interrupted.")] = False,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Write the log out, a line of JSON for each entry; needs the auditor's key."""
    from vault.encoding import asked_time, utcnow
    from vault.errors import InvalidInput
    from vault.siem import Format

    if form not in {each.value for each in Format}:
        raise InvalidInput("--format: use ocsf or jsonl")
    if json and output is None:
        raise InvalidInput("--json: goes with -o FILE; without it the lines themselves go to stdout")
    begins = int(since) if since is not None and since.isdecimal() else None
    moment = asked_time(since, "--since", utcnow()) if since is not None and begins is None else None
    opened = open_vault(vault)
    with _stopping(follow) as stopped, _target(output) as file:
        last = _last(file, Format(form), output) if output is not None else None
        if last is not None and since is not None:
            raise InvalidInput(f"--since: {output} has entries already, and is gone on with behind the last of them")
        start = last if last is not None else begins if begins is not None else moment
        count = 0

        def again() -> bool:
            file.flush()
            return follow and not stopped.wait(_LOOK_SECONDS)

        for number, line in opened.audit_export(Format(form), since=start, again=again):
            file.write(line.encode() + b"\n")
            count, last = count + 1, number
            if stopped.is_set():
                break
        file.flush()
        if output is not None:
            os.fsync(file.fileno())
    if output is not None:
        emit({"entries": count, "last": last, "output": str(output)}, json, f"wrote {count} entries to {output}")


@contextmanager
def _stopping(follow: bool) -> Iterator[threading.Event]:
    """Within it SIGINT and SIGTERM end what follows behind a whole line, and a second one at once."""
    stopped = threading.Event()
    if not follow:
        yield stopped
        return

    def stop(_number: int, _frame: object) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def _target(output: Path | None) -> Iterator[IO[bytes]]:
    """Where lines go: the log is for few eyes, so a new file is its owner's only."""
    if output is None:
        yield sys.stdout.buffer
        return
    from vault.errors import InvalidInput

    with open(os.open(output, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InvalidInput(f"-o: {output} is being written by another export") from error
        yield file


def _last(file: IO[bytes], form: "Format", path: Path) -> int | None:
    """The number of the last entry in a file, which is then at its end; a line that was cut is taken away."""
    from vault.errors import InvalidInput
    from vault.siem import sequence_of

    size, tail, at = file.seek(0, os.SEEK_END), b"", 0
    # A line may be long: look further and further back for the end of the one before.
    while tail.count(b"\n") < 2 and len(tail) < size:
        at = max(0, size - max(_TAIL_BYTES, 2 * len(tail)))
        file.seek(at)
        tail = file.read(size - at)
    whole, _, cut = tail.rpartition(b"\n")
    try:
        last = sequence_of(form, whole.rpartition(b"\n")[2].decode()) if whole else None
        if not whole and not cut.startswith(b"{"[: len(cut)]):
            raise ValueError
    except ValueError as error:
        raise InvalidInput(f"-o: {path} is there already, and its last line is not one of this format") from error
    if cut:
        file.truncate(size - len(cut))
        note(f"{path}: the last line was cut, and is written anew")
    file.seek(0, os.SEEK_END)
    return last
