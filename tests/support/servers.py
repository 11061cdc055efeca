"""Real servers that tests need, each on a free port and ended by its own process id."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from vault.encoding import new_id

ROOT_TOKEN = "root-of-the-tests"


def free_port(pair: bool = False) -> int:
    """A port that is free at this moment; with ``pair`` the next one is too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1 if pair else 0))
            except (OSError, OverflowError):
                continue
            return port


@dataclass(frozen=True)
class OpenBao:
    """A running server, its root token, and the file of its audit device."""

    address: str
    token: str
    audit: Path

    def call(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        """One request; the status and the document that came."""
        answer = urllib3.request(
            method, f"{self.address}/v1/{path}", json=body, headers={"X-Vault-Token": token or self.token}, timeout=10
        )
        return answer.status, (answer.json() if answer.data else {})

    def mount(self) -> str:
        """A transit engine of its own, whose audit entries show the associated data."""
        name = f"transit-{new_id()[:8]}"
        status, _ = self.call("POST", f"sys/mounts/{name}", {"type": "transit"})
        assert status in {200, 204}
        keys = ["associated_data"]
        status, _ = self.call("POST", f"sys/mounts/{name}/tune", {"audit_non_hmac_request_keys": keys})
        assert status in {200, 204}
        return name

    def uri(self, mount: str) -> str:
        """The KMS URI of a mount."""
        return f"transit://{self.address.removeprefix('http://')}/{mount}"

    def token_for(self, policy: str, **options: Any) -> str:
        """A token that is under this policy and the default one."""
        name = f"policy-{new_id()[:8]}"
        status, answer = self.call("PUT", f"sys/policies/acl/{name}", {"policy": policy})
        assert status in {200, 204}, answer
        status, answer = self.call("POST", "auth/token/create", {"policies": [name, "default"], **options})
        assert status == 200, answer
        return str(answer["auth"]["client_token"])


@contextmanager
def openbao() -> Iterator[OpenBao]:
    """``bao server -dev`` with a file audit device on."""
    with tempfile.TemporaryDirectory(prefix="dsvault-bao-") as folder:
        port = free_port(pair=True)
        audit = Path(folder) / "audit.log"
        # The audit device has to stand in the configuration: newer servers take none over the API.
        configuration = Path(folder) / "bao.hcl"
        configuration.write_text(
            f'audit "file" "to-file" {{\n  options {{\n    file_path = "{audit}"\n    mode = "0600"\n  }}\n}}\n'
        )
        command = [
            str(Path(sys.executable).parent / "bao"),
            "server",
            "-dev",
            f"-config={configuration}",
            f"-dev-root-token-id={ROOT_TOKEN}",
            f"-dev-listen-address=127.0.0.1:{port}",
            "-dev-no-store-token",
            "-log-level=error",
        ]
        environment = {**os.environ, "HOME": folder}
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, cwd=folder
        )
        try:
            server = OpenBao(f"http://127.0.0.1:{port}", ROOT_TOKEN, audit)
            _await(server, process)
            yield server
        finally:
            process.terminate()
            process.wait(timeout=30)


def _await(server: OpenBao, process: "subprocess.Popen[bytes]") -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        assert process.poll() is None, "bao ended at once"
        try:
            answer = urllib3.request("GET", f"{server.address}/v1/sys/health", timeout=2, retries=False)
            if answer.status == 200:
                return
        except urllib3.exceptions.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError("bao did not come up within a minute")


@contextmanager
def aws() -> Iterator[str]:
    """moto's server in this process; yields its URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()
