"""SoftHSM's tokens in a throwaway directory: an HSM for tests, where the package softhsm2 is installed.

SoftHSM reads its configuration, and looks for tokens, when a process initialises it, which happens once. So each
process of tests has one directory, and one pair of tokens in it that all of its tests share; they keep apart by keys
of their own, which have random ids.
"""

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vault.encoding import new_id

__all__ = ["SoftHsm", "softhsm"]

_PLACES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
)


@dataclass(frozen=True)
class SoftHsm:
    """A library, its configuration, and the two tokens of a lab."""

    module: str
    folder: Path
    token: str = "lab-vendors"
    owner_token: str = "lab-owner"
    pin: str = field(default_factory=lambda: "v" + new_id())
    owner_pin: str = field(default_factory=lambda: "o" + new_id())

    @property
    def uri(self) -> str:
        """The KMS URI of the tokens."""
        return f"pkcs11://{self.module}?token={self.token}&owner-token={self.owner_token}"

    @property
    def environment(self) -> dict[str, str]:
        """What another process needs so as to use the tokens as the owner; without the last it is a broker's."""
        return {
            "SOFTHSM2_CONF": str(self.folder / "softhsm2.conf"),
            "DSVAULT_PKCS11_PIN": self.pin,
            "DSVAULT_PKCS11_OWNER_PIN": self.owner_pin,
        }

    def make_token(self, label: str, pin: str) -> None:
        """A token; a process that has initialised the library before does not see it."""
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", new_id()]
        environment = {**os.environ, "SOFTHSM2_CONF": self.environment["SOFTHSM2_CONF"]}
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)


@functools.cache
def softhsm() -> SoftHsm:
    """This process's tokens, made when they are first asked for; skips the test where SoftHSM is not installed."""
    wanted = os.environ.get("SOFTHSM2_MODULE")
    module = next((path for path in (wanted, *_PLACES) if path and os.path.exists(path)), None)
    if module is None:
        pytest.skip("SoftHSM's libsofthsm2.so is not installed (Debian: softhsm2; or set SOFTHSM2_MODULE)")
    if shutil.which("softhsm2-util") is None:
        pytest.skip("softhsm2-util is not installed (Debian: softhsm2)")
    hsm = SoftHsm(module, Path(tempfile.mkdtemp(prefix="dsvault-hsm-")))
    atexit.register(_remove, hsm.folder, os.getpid())
    (hsm.folder / "tokens").mkdir(mode=0o700)
    lines = (f"directories.tokendir = {hsm.folder}/tokens", "objectstore.backend = file", "log.level = ERROR")
    (hsm.folder / "softhsm2.conf").write_text("\n".join(lines) + "\n")
    hsm.make_token(hsm.token, hsm.pin)
    hsm.make_token(hsm.owner_token, hsm.owner_pin)
    # For the rest of the process: the library reads it once, whichever test comes first.
    os.environ["SOFTHSM2_CONF"] = hsm.environment["SOFTHSM2_CONF"]
    return hsm


def _remove(folder: Path, process: int) -> None:
    # A child that was forked leaves its parent's tokens alone.
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
