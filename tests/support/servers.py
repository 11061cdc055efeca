"""Real servers that tests need, each on a free port and ended by its own process id."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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


def free_ports(count: int) -> list[int]:
    """So many ports that are free at this moment, no two of them the same."""
    with ExitStack() as held:
        found = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(one.getsockname()[1]) for one in found]


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
    # moto looks whether an object is there and writes it a moment later: one request at a time makes that one step.
    listening: Any = server._server
    app, one = listening.app, threading.Lock()

    def in_turn(environ: Any, start_response: Any) -> list[bytes]:
        with one:
            return list(app(environ, start_response))

    listening.app = in_turn
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


#: What SeaweedFS is told its only user is; it checks each request's signature.
S3_KEY, S3_SECRET = "key-of-the-tests", "secret-of-the-tests"


class SeaweedFS:
    """A SeaweedFS with an S3 gateway, on ports and in a folder of its own; it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        names, ports = ("master", "volume", "filer", "s3"), free_ports(8)
        self._ports, self._grpc = dict(zip(names, ports, strict=False)), dict(zip(names, ports[4:], strict=True))
        self.url = f"http://127.0.0.1:{self._ports['s3']}"
        (folder / "data").mkdir()
        user = {"accessKey": S3_KEY, "secretKey": S3_SECRET}
        identities = [
            {"name": "tests", "credentials": [user], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))

    def environment(self) -> dict[str, str]:
        """What s3fs and boto3 find the server and its user by."""
        return {
            "AWS_ACCESS_KEY_ID": S3_KEY,
            "AWS_SECRET_ACCESS_KEY": S3_SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
        }

    def bucket(self) -> str:
        """A new, empty bucket of its own."""
        import boto3

        name = f"tests-{new_id()[:12]}"
        client = boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=S3_KEY,
            aws_secret_access_key=S3_SECRET,
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=name)
        client.close()
        return name

    def start(self) -> None:
        """Start it, on what it had, and wait until its gateway answers and its volumes can be written."""
        # Volumes are small and grow as they are written, or tests would fill the disk.
        options = ["-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-s3.config=s3.json"]
        options += [
            "-master.volumeSizeLimitMB=256",
            "-volume.max=1000",
            "-volume.minFreeSpace=1",
            "-master.telemetry=false",
            "-master.electionTimeout=1s",
        ]
        options += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-volume.preStopSeconds=0"]
        for name, port in self._ports.items():
            options += [f"-{name}.port={port}", f"-{name}.port.grpc={self._grpc[name]}"]
        options += [f"-{name}.localSocket={self._folder / name}.sock" for name in ("filer", "s3")]
        self._process = subprocess.Popen(
            [str(Path(sys.executable).parent / "weed"), "-logdir=.", "server", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(self._folder)},
            cwd=self._folder,
        )
        # Whoever started it may be killed: the end of this pipe ends the server.
        self._watch = subprocess.Popen(
            ["sh", "-c", f"read _; kill -9 {self._process.pid}"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._await()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self._watch is not None:
            self._watch.kill()
            self._watch.communicate()
            self._watch = None
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)
            self._process = None
            for name, port in self._grpc.items():
                Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock").unlink(missing_ok=True)

    def _await(self) -> None:
        ends = time.monotonic() + 60
        assert self._process is not None
        while time.monotonic() < ends:
            assert self._process.poll() is None, "weed ended at once"
            try:
                # The filer takes a file only when a volume server has come to the master, and the gateway is up last.
                filer = f"http://127.0.0.1:{self._ports['filer']}/up"
                taken = urllib3.request("PUT", filer, body=b"up", timeout=10, retries=False).status
                gateway = urllib3.request("GET", f"{self.url}/", timeout=10, retries=False).status
                if taken == 201 and gateway in {200, 403}:
                    return
            except urllib3.exceptions.HTTPError:
                pass
            time.sleep(0.1)
        raise AssertionError("SeaweedFS did not come up within a minute")


@contextmanager
def seaweedfs() -> Iterator[SeaweedFS]:
    """``weed server -s3`` in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="dsvault-s3-") as folder:
        server = SeaweedFS(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.kill()
