"""A pytest plugin that fails the very test in which a secret shows: in a log, an error, or what a process of ours prints.

It remembers, by their beginnings and middles, the keys and secrets of credentials that come about in the test process,
and knows by their form those that do not: tokens, proofs, private keys. Brokers and commands of the tests use the same keys,
so what they print is looked through for them, too. What is looked through:

* each record of ours that is logged, from the lowest level on, and others' from a warning on;
* the text of every `VaultError`, raised or not;
* what commands and brokers that tests start print to stderr, where no value of a table may be either, and to stdout,
  where previews of what was granted belong;
* what a test itself prints to stderr.

A secret counts in hex, in base64 of either alphabet, as Python shows bytes, and raw. What is found is never shown.
"""

import ast
import base64
import functools
import logging
import re
import subprocess
import traceback
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from vault import derivation, keyfile
from vault.errors import VaultError
from vault.proof import ProofKey
from vault.wire import Token

_PIECE = 12
#: Values of the tables that tests publish (`tests.support.tables.rows`, and what single tests plant).
_VALUES = re.compile(r"the answer to \d|prompt number \d|private \d|[Pp]lanted[- ](?:plaintext|row|answer|author|note)")
#: What is secret whoever made it. A proof and a link of a delegation are a JWS; so are identity providers' tokens.
_FORMS = {
    "a token": re.compile(r"dsv1\.[0-9a-f]{32}\.[A-Za-z0-9+/_-]{16}"),
    "a proof or a foreign token": re.compile(r"eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY|[\"']d[\"']: ?[\"'][A-Za-z0-9_-]{43}[\"']"),
}
_HEX = re.compile(f"[0-9a-fA-F]{{{2 * _PIECE},}}")
_BASE64 = re.compile(f"[A-Za-z0-9+/_-]{{{_PIECE * 4 // 3},}}")
_BYTES = re.compile(r"b'(?:[^'\\]|\\.)*'|b\"(?:[^\"\\]|\\.)*\"")
_STANDARD = str.maketrans("-_", "+/")


class Secrets:
    """What must not show, and a look for it."""

    def __init__(self) -> None:
        self._pieces: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._pieces) // 2

    def add(self, secret: bytes) -> None:
        """A key, or anything as secret; what tests put in the place of one, a byte over and over, is none."""
        if len(secret) >= 30 and len(set(secret)) > 8:
            # Of the middle, the bytes that begin at a border of base64's.
            self._pieces |= {secret[:_PIECE], secret[18 : 18 + _PIECE]}

    def found_in(self, text: str, *, values: bool = True) -> str | None:
        """What kind of secret is in a text, if any."""
        for kind, form in _FORMS.items():
            if form.search(text):
                return kind
        if values and _VALUES.search(text):
            return "a value of a table"
        return "a key or the secret of a credential" if any(map(self._pieces.__contains__, _windows(text))) else None


def _windows(text: str) -> Iterator[bytes]:
    """Every piece of bytes, of the length that secrets are remembered by, that a text may stand for."""
    for run in _HEX.findall(text):
        for at in range(len(run) - 2 * _PIECE + 1):
            yield bytes.fromhex(run[at : at + 2 * _PIECE])
    width = _PIECE * 4 // 3
    for run in _BASE64.findall(text):
        standard = run.translate(_STANDARD)
        for at in range(len(standard) - width + 1):
            yield base64.b64decode(standard[at : at + width])
    raw = [ast.literal_eval(shown) for shown in _BYTES.findall(text) if "\\x" in shown]
    if not text.isascii():
        raw += [text.encode("utf-8", "surrogateescape"), text.encode("latin-1", "ignore")]
    for data in raw:
        for at in range(len(data) - _PIECE + 1):
            yield data[at : at + _PIECE]


class Watch(logging.Handler):
    """Gathers what a test shows, and looks through it at the end of each of its phases."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.secrets = Secrets()
        #: Where it was shown, the text, and whether values of tables count.
        self._shown: dict[tuple[str, str], bool] = {}

    def show(self, where: str, text: "str | bytes | None", *, values: bool = True) -> None:
        """Something was shown."""
        if text:
            readable = text if isinstance(text, str) else text.decode("utf-8", "surrogateescape")
            self._shown[where, readable] = values

    def emit(self, record: logging.LogRecord) -> None:
        """A record with all that was given with it."""
        shown = [record.getMessage(), *(f"{name}={value}" for name, value in record.__dict__.items() if name != "msg")]
        if record.exc_info and record.exc_info[1] is not None:
            shown += traceback.format_exception(record.exc_info[1])
        self.show(f"a record of the log {record.name}", "\n".join(shown))

    def take(self) -> str | None:
        """What was found in what was shown since the last time, in a sentence without the secret."""
        shown, self._shown = self._shown, {}
        for (where, text), values in shown.items():
            kind = self.secrets.found_in(text, values=values)
            if kind is not None:
                return f"{kind} is in {where}"
        return None


def _seen(function: Callable[..., Any], see: Callable[..., None]) -> Callable[..., Any]:
    """A function whose result and arguments are told, too."""

    @functools.wraps(function)
    def watched(*args: Any, **named: Any) -> Any:
        result = function(*args, **named)
        see(result, *args)
        return result

    return watched


def _watch_secrets(secrets: Secrets, patch: pytest.MonkeyPatch) -> None:
    """Remember every secret where it comes about or is opened; each goes through one of these."""

    def derived(result: bytes, data_key: bytes, _info: bytes, length: int) -> None:
        # Every data key that is made or unwrapped is held against its id, which follows from it and is public.
        secrets.add(data_key)
        if length == derivation.KEY_BYTES:
            secrets.add(result)

    def proof_key(_: None, made: ProofKey, key: Any) -> None:
        if key.is_private:
            secrets.add(base64.urlsafe_b64decode(key.as_dict(private=True)["d"] + "="))

    patch.setattr(derivation, "_derive", _seen(derivation._derive, derived))
    patch.setattr(Token, "__init__", _seen(Token.__init__, lambda _, token, *_rest: secrets.add(token.secret)))
    patch.setattr(ProofKey, "__init__", _seen(ProofKey.__init__, proof_key))
    patch.setattr(keyfile.KeyFile, "open", _seen(keyfile.KeyFile.open, lambda secret, *_rest: secrets.add(secret)))
    patch.setattr(
        keyfile, "write_new", _seen(keyfile.write_new, lambda _, _path, _kind, _id, secret, *_rest: secrets.add(secret))
    )


def _watch_errors(watch: Watch, patch: pytest.MonkeyPatch) -> None:
    def begin(error: VaultError, *args: object) -> None:
        Exception.__init__(error, *args)
        watch.show(f"the text of a {type(error).__name__}", " ".join(map(str, args)))

    patch.setattr(VaultError, "__init__", begin)


def _watch_processes(watch: Watch, patch: pytest.MonkeyPatch) -> None:
    def ended(result: tuple[Any, Any], process: "subprocess.Popen[Any]", *_: object) -> None:
        command = process.args if isinstance(process.args, str) else " ".join(map(str, process.args))  # type: ignore[arg-type]
        if "vault_cli" in command or "dsvault" in command:
            watch.show("what a command of ours prints to stdout", result[0], values=False)
            watch.show("what a command of ours prints to stderr", result[1])

    patch.setattr(subprocess.Popen, "communicate", _seen(subprocess.Popen.communicate, ended))


#: One for the process: whatever tests start in it is watched by it.
_WATCH = Watch()


def shown(where: str, text: "str | bytes", *, values: bool = True) -> None:
    """Something that the plugin does not see by itself was shown, such as a file that a process logged into."""
    _WATCH.show(where, text, values=values)


def pytest_configure(config: pytest.Config) -> None:
    """Begin to watch, before any test module is imported."""
    patch = pytest.MonkeyPatch()
    _watch_secrets(_WATCH.secrets, patch)
    _watch_errors(_WATCH, patch)
    _watch_processes(_WATCH, patch)
    ours, every = logging.getLogger("dsvault"), logging.getLogger()
    level = ours.level
    ours.setLevel(logging.DEBUG)
    every.addHandler(_WATCH)

    def end() -> None:
        patch.undo()
        ours.setLevel(level)
        every.removeHandler(_WATCH)

    config.add_cleanup(end)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a phase of a test in which a secret was shown."""
    report = yield
    _WATCH.show("what the test prints to stderr", report.capstderr)
    found = _WATCH.take()
    if found is not None:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: {found}"
        # What was printed is not shown again with the report.
        report.sections.clear()
    return report
