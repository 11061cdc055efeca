"""The plugin that looks for secrets in what all tests show: it finds them, and fails the test in which they are."""

import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.secrecy import Secrets

_KEY = bytes(range(199, 231))
#: Every test but the harmless ones shows something, each in a way of its own.
_TESTS = """
import logging, os, subprocess, sys
import pytest
from vault.derivation import key_id
from vault.errors import IntegrityError, NotGranted, VaultError
from vault.proof import ProofKey
from vault.wire import Token
from tests.support import secrecy

KEY = bytes(range(199, 231))
TOKEN = Token("a" * 32, KEY[::-1])

def test_harmless():
    logging.getLogger("dsvault.broker").debug("nothing %s", "a" * 64)
    str(VaultError("the key of a vendor cannot be opened"))
    subprocess.run([sys.executable, "-c", "print('answer'); # dsvault"], capture_output=True, text=True)

def test_key_in_log():
    key_id(KEY)
    logging.getLogger("dsvault.access").debug("opened %s", KEY.hex())

def test_key_in_extra():
    logging.getLogger("dsvault.access").info("opened", extra={"with_key": KEY})

def test_key_in_trace():
    try:
        raise ValueError(KEY.hex())
    except ValueError:
        logging.getLogger("another").exception("failed")

def test_token_in_log():
    logging.getLogger("dsvault.requests").info(TOKEN.header())

def test_token_in_error():
    with pytest.raises(NotGranted):
        raise NotGranted(f"refused: {TOKEN.text[40:]}")

def test_value_in_error():
    IntegrityError("bad row: the answer to 7")

def test_private_key_in_error():
    VaultError(ProofKey.create().document()["d"])

def test_proof_in_stderr():
    from datetime import datetime
    print(ProofKey.create().prove("GET", "http://a/", "t", datetime.now()), file=sys.stderr)

def test_key_on_stdout():
    subprocess.run([sys.executable, "-c", f"print({KEY.hex()!r}) # dsvault"], capture_output=True)

def test_value_on_stderr():
    subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('prompt number 5') # dsvault"], capture_output=True)

def test_key_in_a_file():
    secrecy.shown("a file", b"\\x00" + KEY)

@pytest.fixture
def late():
    yield
    logging.getLogger("dsvault.access").warning("closed %s", KEY.hex())

def test_in_teardown(late):
    pass

def test_harmless_after_all():
    logging.getLogger("dsvault.access").warning("fine")
"""


def test_whatever_shows_a_secret_fails(tmp_path: Path) -> None:
    """By a log, its extras and its tracebacks, errors, both outputs, and files; tests beside them pass, and nothing is repeated."""
    (tmp_path / "test_it.py").write_text(_TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.secrecy", "-p", "no:cacheprovider", "-rA", "-q"]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    outcomes = re.findall(r"^(PASSED|FAILED|ERROR) \S+::(\w+)", done.stdout, re.MULTILINE)
    tests = re.findall(r"def (test_\w+)", _TESTS)
    bad = {name for outcome, name in outcomes if outcome != "PASSED"}
    assert {name for _, name in outcomes} == set(tests), done.stdout + done.stderr
    assert bad == set(tests) - {"test_harmless", "test_harmless_after_all"}
    assert _KEY.hex() not in done.stdout
    assert "the answer to 7" not in done.stdout


@pytest.mark.parametrize(
    "shown",
    [
        _KEY.hex(),
        _KEY.hex().upper(),
        f"x{_KEY.hex()}x",
        base64.b64encode(_KEY).decode(),
        base64.urlsafe_b64encode(_KEY).decode().rstrip("="),
        f"aa{base64.b64encode(_KEY).decode()}",
        repr(_KEY),
        repr(b"before" + _KEY + b"behind"),
        repr({"key": _KEY}),
        _KEY.decode("latin-1") + "é",
        _KEY[:14].hex(),
        _KEY[18:].hex(),
    ],
)
def test_a_key_is_known_in_every_form(shown: str) -> None:
    """Hexadecimal, base64, as Python shows bytes, and half of it only."""
    secrets = Secrets()
    secrets.add(_KEY)
    assert secrets.found_in(f"something {shown} else")
    assert not Secrets().found_in(f"something {shown} else")


def test_what_is_public_is_no_secret() -> None:
    """Ids, digests, and what stands in the place of a secret in tests."""
    secrets = Secrets()
    for key in (_KEY, bytes(32), b"x" * 32, b"\x01" * 32, b"short"):
        secrets.add(key)
    assert len(secrets) == 1
    for shown in ("0" * 64, "x" * 64, "01" * 32, "short", os.urandom(32).hex(), "/v1/datasets/{name}/read", ""):
        assert secrets.found_in(shown) is None


def test_this_process_is_watched(tmp_path: Path) -> None:
    """What a lab's keys are is known in the process that made them: data keys, their chunks', key files, and tokens."""
    import vault
    from tests.support import secrecy
    from tests.support.tables import rows

    lab = vault.init(tmp_path / "lab")
    lab.add_vendor("acme")
    before = len(secrecy._WATCH.secrets)
    lab.publish("evals", rows(5))
    assert len(secrecy._WATCH.secrets) >= before + 6 * 2
    token = lab.issue_credential("acme", bearer=True).profile.token
    for secret in (token.secret, lab.parts.signers.keys.auditor_secrets()[0]):
        assert secrecy._WATCH.secrets.found_in(secret.hex())
