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
    try:
        # A key under a passphrase would be asked for on the terminal of whoever starts the broker, or for ever.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise InvalidInput("--tls-cert, --tls-key: the files cannot be used") from error
    if client_ca is not None:
        try:
            context.load_verify_locations(cafile=client_ca)
        except (OSError, ValueError) as error:
            raise InvalidInput("--tls-client-ca: the file cannot be used") from error
        context.verify_mode = ssl.CERT_REQUIRED
        if not context.get_ca_certs():
            raise InvalidInput("--tls-client-ca: the file holds no certificate of an authority")
    return context
