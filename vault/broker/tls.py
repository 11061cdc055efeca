"""TLS on the broker's socket, and certificates of its clients where they are asked for."""

import ssl
from pathlib import Path

from vault.errors import InvalidInput

__all__ = ["server_context"]


def server_context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer with forward secrecy; with ``client_ca`` only clients whose certificate it signed are let in.

    Raises InvalidInput naming the option at fault.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # RFC 9325 sections 3 and 4: no renegotiation, no compression, ephemeral keys and AEAD alone.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols(["http/1.1"])
    _readable(certificate, "--tls-cert")
    _readable(key, "--tls-key")
    try:
        # A key under a passphrase would be asked for on the terminal of whoever starts the broker, or for ever.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"--tls-cert, --tls-key: {certificate} and {key} are not a PEM certificate and its own private key without "
            "a passphrase"
        ) from error
    if client_ca is not None:
        _readable(client_ca, "--tls-client-ca")
        try:
            context.load_verify_locations(cafile=client_ca)
        except (OSError, ValueError) as error:
            raise InvalidInput(f"--tls-client-ca: {client_ca}: the file is no PEM certificate") from error
        context.verify_mode = ssl.CERT_REQUIRED
        if not context.get_ca_certs():
            raise InvalidInput(f"--tls-client-ca: {client_ca}: the file holds no certificate of an authority")
    return context


def _readable(path: Path, option: str) -> None:
    """OpenSSL does not say which file it could not open, or why."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise InvalidInput(f"{option}: {path}: the file cannot be read ({error.strerror})") from error
