"""TLS and client certificates: who has none of the right authority does not get as far as a request."""

import datetime as dt
import ipaddress
import json
import os
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

import vault
from tests.conftest import Lab
from tests.support.brokers import broker
from vault.audit import Kind
from vault.broker import ServeOptions
from vault.client.trust import Trust
from vault.errors import InvalidInput, Unauthenticated, Unavailable

_HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "mtls.md"


@dataclass(frozen=True)
class _Files:
    """A certificate and its key."""

    cert: Path
    key: Path


class _Authority:
    """An authority that signs what a test asks for."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.cert = folder / f"{name}.pem"
        builder = self._builder(self._name, self._key.public_key(), days=1)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._certificate = builder.sign(self._key, SHA256())
        self.cert.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=2))
            .not_valid_after(now + dt.timedelta(days=days))
        )

    def issue(self, name: str, *, server: bool = False, days: int = 1, passphrase: bytes | None = None) -> _Files:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, key.public_key(), days)
        usage = x509.ExtendedKeyUsageOID.SERVER_AUTH if server else x509.ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        files = _Files(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        files.cert.write_bytes(builder.sign(self._key, SHA256()).public_bytes(serialization.Encoding.PEM))
        sealing = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealing))
        return files


def _tls(server: _Files) -> tuple[str, ...]:
    return "--tls-cert", str(server.cert), "--tls-key", str(server.key)


def test_only_clients_of_the_authority_are_let_in(granted: Lab, tmp_path: Path) -> None:
    """With a certificate of it a read works; with none, another authority's, or one that is over, nothing does."""
    ours, theirs = _Authority(tmp_path, "ours"), _Authority(tmp_path, "theirs")
    server = ours.issue("broker", server=True)
    good, over, foreign = ours.issue("good"), ours.issue("over", days=-1), theirs.issue("foreign")
    options = (*_tls(server), "--tls-client-ca", str(ours.cert))
    with broker(granted.folder, *options) as endpoint:
        assert endpoint.startswith("https://127.0.0.1:")
        profile = granted.profile("acme", endpoint)
        client = vault.connect(profile, ca=ours.cert, client_cert=good.cert, client_key=good.key)
        assert client.dataset("evals").to_arrow().num_rows == 50
        for files in (None, over, foreign, server):
            more = {} if files is None else {"client_cert": files.cert, "client_key": files.key}
            with pytest.raises(Unavailable, match="cannot be reached: .*--client-cert"):
                vault.connect(profile, ca=ours.cert, **more).datasets()
        # A certificate is no credential.
        unknown = replace(client.profile, token=replace(client.profile.token, secret=b"x" * 32))
        with pytest.raises(Unauthenticated):
            vault.Client(unknown, trust=Trust(ours.cert, good.cert, good.key)).datasets()
        # Nor is a broker trusted that another authority, or the public ones, would vouch for.
        for ca in (None, theirs.cert):
            with pytest.raises(Unavailable, match=r"its certificate is not trusted \(.*\); --ca names"):
                vault.connect(profile, ca=ca, client_cert=good.cert, client_key=good.key).datasets()
        fetch = [sys.executable, "-m", "vault_cli.main", "fetch", "evals", "--profile", str(profile), "--json"]
        shown = ["--ca", str(ours.cert), "--client-cert", str(good.cert), "--client-key", str(good.key)]
        done = subprocess.run([*fetch, *shown], capture_output=True, text=True, timeout=60, check=True)
        assert len(json.loads(done.stdout)["rows"]) == 20


def test_old_tls_and_weak_ciphers_are_not_spoken(granted: Lab, tmp_path: Path) -> None:
    """TLS 1.1, and key exchange without forward secrecy, end in the handshake; 1.2 and 1.3 work."""
    authority = _Authority(tmp_path, "ca")
    # With several workers TLS is as it is with one.
    with broker(granted.folder, *_tls(authority.issue("broker", server=True)), "--workers", "2") as endpoint:
        port = int(endpoint.rpartition(":")[2])

        def spoken(version: ssl.TLSVersion, ciphers: str) -> str | None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(authority.cert)
            context.set_ciphers(ciphers)
            context.minimum_version = context.maximum_version = version
            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
            ):
                return secured.version()

        assert spoken(ssl.TLSVersion.TLSv1_3, "DEFAULT") == "TLSv1.3"
        assert spoken(ssl.TLSVersion.TLSv1_2, "ECDHE+AESGCM") == "TLSv1.2"
        with pytest.raises(ssl.SSLError):
            spoken(ssl.TLSVersion.TLSv1_2, "ECDHE+AES:!AESGCM:!AESCCM:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"), pytest.raises(ssl.SSLError):
            spoken(ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0")


def test_a_handshake_that_does_not_come_is_not_waited_for(granted: Lab, tmp_path: Path) -> None:
    """A connection without a handshake ends at the deadline, while others are served."""
    from tests.support.raw import connect, ends_within

    authority = _Authority(tmp_path, "ca")
    options = (*_tls(authority.issue("broker", server=True)), "--request-timeout", "1s")
    with broker(granted.folder, *options) as endpoint, connect(endpoint) as silent:
        assert vault.connect(granted.profile("acme", endpoint), ca=authority.cert).datasets() == ["evals"]
        assert ends_within(silent, 5)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """By the option at fault, on both sides, and nobody is asked for a passphrase."""
    authority = _Authority(tmp_path, "ca")
    good, other = authority.issue("good", server=True), authority.issue("other", server=True)
    sealed = authority.issue("sealed", server=True, passphrase=b"word")
    none, junk = tmp_path / "none.pem", tmp_path / "junk.pem"
    junk.write_text("junk")
    for files in (_Files(none, good.key), _Files(good.cert, other.key), _Files(junk, junk), sealed):
        said = (
            f"--tls-cert: {none}: .*No such file" if files.cert == none else f"--tls-cert, --tls-key: {files.cert} and "
        )
        with pytest.raises(InvalidInput, match=f"^{said}"):
            ServeOptions(tls_cert=files.cert, tls_key=files.key).context()
        with pytest.raises(InvalidInput, match="^--client-cert, --client-key: "):
            Trust(client_cert=files.cert, client_key=files.key).broker_context()
    with pytest.raises(InvalidInput, match="^--tls-cert and --tls-key go together"):
        ServeOptions(tls_cert=good.cert).context()
    with pytest.raises(InvalidInput, match="^--tls-client-ca goes with"):
        ServeOptions(tls_client_ca=authority.cert).context()
    with pytest.raises(InvalidInput, match="^--client-cert and --client-key go together"):
        Trust(client_key=good.key).broker_context()
    for ca in (none, junk, good.key):
        with pytest.raises(InvalidInput, match="^--tls-client-ca: "):
            ServeOptions(tls_cert=good.cert, tls_key=good.key, tls_client_ca=ca).context()
        with pytest.raises(InvalidInput, match="^--ca: "):
            Trust(ca=ca).broker_context()


def test_the_store_is_not_shown_the_client_certificate(tmp_path: Path) -> None:
    """It is for the broker; towards the store nothing of it is loaded, so that a file that is missing does not matter."""
    authority = _Authority(tmp_path, "ca")
    context = Trust(authority.cert, tmp_path / "none", tmp_path / "none").store_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    # A broker has to have a certificate of the named authority; a store may have a public one too.
    assert len(Trust(authority.cert).broker_context().get_ca_certs()) == 1
    assert len(context.get_ca_certs()) == len(ssl.create_default_context().get_ca_certs()) + 1
    with pytest.raises(InvalidInput):
        Trust(authority.cert, tmp_path / "none", tmp_path / "none").broker_context()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the how-to's commands are openssl's, which is not here")
def test_the_how_to_works_as_it_is_written(granted: Lab, tmp_path: Path) -> None:
    """Its commands make certificates with which the broker starts, lets the vendor in, and nobody without one."""
    text = _HOW_TO.read_text().replace("\\\n", " ")
    commands = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    making = [command for command in commands if not command.startswith("dsvault")]
    assert len(making) == 7
    for command in making:
        subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    serving, fetching = (shlex.split(command) for command in commands if command.startswith("dsvault"))
    absolute = [str(tmp_path / word) if word.endswith((".pem", ".key")) else word for word in serving[2:]]
    with broker(granted.folder, *absolute) as endpoint:
        granted.profile("acme", endpoint).rename(tmp_path / "acme.json")
        program = [sys.executable, "-m", "vault_cli.main", *fetching[1:]]
        subprocess.run(program, cwd=tmp_path, check=True, capture_output=True, timeout=60)
        assert (tmp_path / "evals.parquet").exists()
        with pytest.raises(Unavailable):
            vault.connect(tmp_path / "acme.json", ca=tmp_path / "ca.pem").datasets()


def test_an_answer_over_tls_that_nobody_reads_is_ended_at_the_deadline(lab: Lab, tmp_path: Path) -> None:
    """Also one of a single batch, all of which TLS would take at once and hold until somebody reads it."""
    authority = _Authority(tmp_path, "ca")
    lab.vault.publish("evals", pa.table({"data": pa.array([os.urandom(1000) for _ in range(20_000)], pa.binary())}))
    lab.vault.grant("acme", "evals", ["data"])
    token = lab.vault.issue_credential("acme", bearer=True).profile.token.header()
    body = "POST /v1/datasets/evals/read HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
    options = (*_tls(authority.issue("broker", server=True)), "--send-timeout", "2s")
    with broker(lab.folder, *options) as endpoint, socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect(("127.0.0.1", int(endpoint.rpartition(":")[2])))
        context = ssl.create_default_context(cafile=authority.cert)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
            secured.sendall(f"{body}Authorization: {token}\r\n\r\n{{}}".encode())
            until = time.monotonic() + 20
            while not (outcomes := _outcomes(lab)) and time.monotonic() < until:
                time.sleep(0.2)
            assert outcomes == ["broken off"]


def _outcomes(lab: Lab) -> list[object]:
    return [entry.fields["outcome"] for _, entry in lab.vault.audit_entries() if entry.kind is Kind.READ_ENDED]
