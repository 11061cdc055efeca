"""What the log says of the data keys that a process asked its KMS for: every call, before it is made, and no other."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import vault
from tests.conftest import Lab
from tests.support.moulds import Anew
from tests.support.reading import read
from tests.support.tables import rows
from vault import deployment
from vault.audit import Kind
from vault.catalog import Transaction
from vault.errors import AuditError, KmsError
from vault.keyring import CacheLimits
from vault.kms import Kms
from vault.model import KeyScope
from vault.owner import Vault
from vault.workings.journal import Journal
from vault.workings.parts import Parts, metadata_key, wrapped_key

pytestmark = pytest.mark.both_catalogs


@pytest.fixture(scope="module")
def moulds() -> Anew:
    """Each vault is made anew: tests here count what its process asks of the KMS."""
    return Anew()


class Watched:
    """A KMS that keeps what it was asked to open."""

    def __init__(self, kms: Kms) -> None:
        self._kms = kms
        self.opened: Counter[KeyScope] = Counter()
        self.fails = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kms, name)

    def unwrap(self, key: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Open a blob, or fail after it was asked."""
        self.opened[KeyScope.of(context)] += 1
        if self.fails:
            raise KmsError("trouble")
        return self._kms.unwrap(key, wrapped, context)

    def rewrap(self, source: str, wrapped: bytes, context: Mapping[str, str], target: str) -> bytes:
        """Wrap a blob anew."""
        self.opened[KeyScope.of(context)] += 1
        return self._kms.rewrap(source, wrapped, context, target)


def _watched(lab: Lab, **limits: Any) -> tuple[Vault, Watched]:
    made: list[Watched] = []

    def wrap(kms: Kms) -> Kms:
        made.append(Watched(kms))
        return made[0]  # type: ignore[return-value]

    parts = deployment.open_owner(lab.folder, kms_wrap=wrap, limits=CacheLimits(**limits))
    return Vault(lab.folder, parts), made[0]


def _announced(opened: Vault, after: int = 0) -> Counter[KeyScope]:
    found: Counter[KeyScope] = Counter()
    for number, entry in opened.audit_entries():
        if entry.kind is Kind.KEYS_OPENED and number > after:
            found.update(KeyScope(opened.parts.vault, *key) for key in entry.fields["keys"])
    return found


def _end(opened: Vault) -> int:
    opened.parts.journal.settle()
    return opened.audit_verify()


@pytest.mark.parametrize("age", [0, 60])
def test_every_call_is_announced_and_nothing_else(granted: Lab, age: int) -> None:
    """Publish, grant, check, erase, rekey, rewrap, gc, offboard: one item for each unwrap and rewrap, of the same key."""
    before = _end(granted.vault)
    opened, kms = _watched(granted, age=age)
    opened.publish("evals", rows(120), key="id")
    opened.grant("globex", "evals", ["answer"])
    opened.check()
    opened.erase("evals", keys=[3])
    opened.rekey(vendor="acme")
    opened.rewrap()
    opened.gc()
    opened.offboard("globex")
    opened.parts.journal.settle()
    assert kms.opened
    assert _announced(granted.vault, before) == kms.opened


def test_a_brokers_calls_are_announced_and_held_keys_make_none(granted: Lab) -> None:
    """A cold read opens each key once; a second one asks for nothing, and adds no item."""
    before = _end(granted.vault)
    made: list[Watched] = []

    def wrap(kms: Kms) -> Kms:
        made.append(Watched(kms))
        return made[0]  # type: ignore[return-value]

    parts = granted.broker_parts(kms_wrap=wrap)
    caller = granted.caller(parts, "acme")
    read(parts, caller)
    parts.journal.settle()
    found = _announced(granted.vault, before)
    assert found == made[0].opened
    assert set(found.values()) == {1}
    read(parts, caller)
    parts.journal.settle()
    assert _announced(granted.vault, before) == found


def test_a_call_is_announced_before_it_is_made(granted: Lab) -> None:
    """One that the KMS refused, or that a process died in, has its item."""
    before = _end(granted.vault)
    opened, kms = _watched(granted)
    kms.fails = True
    with pytest.raises(KmsError):
        opened.vendors()
    opened.parts.journal.settle()
    assert kms.opened
    assert _announced(granted.vault, before) == kms.opened


def _open_one(parts: Parts, transaction: Transaction, holder: str) -> KeyScope:
    key = wrapped_key(parts.vault, metadata_key(transaction, holder))
    parts.keyring.open(key)
    return key.scope


@pytest.mark.parametrize("how", ["own", "shared"])
def test_a_key_is_opened_within_a_transaction_without_waiting_for_its_end(granted: Lab, how: str) -> None:
    """SQLite has one writer: noting does not wait for it, and is written behind it."""
    before = _end(granted.vault)
    opened, _ = _watched(granted)
    parts = opened.parts
    began = time.monotonic()
    if how == "own":
        with parts.catalog.write() as transaction:
            scope = _open_one(parts, transaction, parts.owner)
            assert time.monotonic() - began < 5
    else:
        scope = parts.catalog.submit(lambda transaction: _open_one(parts, transaction, parts.owner))
    parts.journal.settle()
    assert time.monotonic() - began < 10
    assert _announced(granted.vault, before) == {scope: 1}


def test_what_could_not_be_written_goes_with_the_next(granted: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog that was locked for a while loses no item."""
    before = _end(granted.vault)
    opened, kms = _watched(granted, age=0)
    with monkeypatch.context() as patch:

        def refuse(*_arguments: object, **_options: object) -> int:
            raise AuditError("trouble")

        patch.setattr(Journal, "record_in", refuse)
        opened.vendors()
        opened.parts.catalog.settle()
    assert _announced(granted.vault, before) == {}
    opened.vendors()
    opened.parts.journal.settle()
    assert sum(kms.opened.values()) >= 2
    assert _announced(granted.vault, before) == kms.opened


_SCRIPT = """
import os, sys
import vault
opened = vault.open(sys.argv[1])
opened.vendors()
{end}
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [("", 0), ("raise RuntimeError", 1), ("sys.exit(3)", 3), ("del opened", 0), ("raise SystemExit", 0)],
)
def test_a_process_that_ends_at_once_has_announced_its_calls(granted: Lab, end: str, code: int) -> None:
    """However it ends, short of being killed."""
    before = _end(granted.vault)
    command = [sys.executable, "-c", _SCRIPT.format(end=end), str(granted.folder)]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == code
    assert sum(_announced(granted.vault, before).values()) == 1


def test_a_process_that_ends_waits_for_the_commit_that_is_under_way(granted: Lab) -> None:
    """What another thread has begun to write is not cut off with it."""
    before = _end(granted.vault)
    slow = (
        "import time\nfrom vault.workings.journal import Journal\nrecord = Journal.record_in\n"
        "def later(*words, **fields):\n    time.sleep(1)\n    return record(*words, **fields)\n"
        "Journal.record_in = later\n"
    )
    command = [sys.executable, "-c", slow + _SCRIPT.format(end="time.sleep(0.5)"), str(granted.folder)]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
    assert sum(_announced(granted.vault, before).values()) == 1


def test_a_process_that_was_forked_announces_nothing_of_its_parents(granted: Lab) -> None:
    """What waits in the parent at that moment is written by the parent alone."""
    before = _end(granted.vault)
    end = "pid = os.fork()\nif pid:\n    os.waitpid(pid, 0)\n"
    command = [sys.executable, "-c", _SCRIPT.format(end=end), str(granted.folder)]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
    assert sum(_announced(granted.vault, before).values()) == 1


def test_each_process_has_an_id_of_its_own(granted: Lab, tmp_path: Path) -> None:
    """Items say from which process they are, by an id that no other has, whatever the system calls it."""
    vault.open(granted.folder).vendors()
    command = [sys.executable, "-c", _SCRIPT.format(end=""), str(granted.folder)]
    for _ in range(2):
        assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
    granted.vault.parts.journal.settle()
    found = [entry for _, entry in granted.vault.audit_entries() if entry.kind is Kind.KEYS_OPENED]
    assert len({entry.fields["process"] for entry in found}) == 3
