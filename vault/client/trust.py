"""Whom a client trusts to be the broker, and the certificate that it shows there."""

import os
import ssl
from dataclasses import dataclass

from vault.errors import InvalidInput

__all__ = ["Trust"]

_Path = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Trust:
    """``ca`` is a PEM file of the authorities that the broker's certificate may be of, in the place of the system's.

    ``client_cert`` and ``client_key`` are PEM files of this client's own certificate, for a broker that asks for one.
    """

    ca: _Path | None = None
    client_cert: _Path | None = None
    client_key: _Path | None = None

    def broker_context(self) -> ssl.SSLContext:
        """TLS towards the broker; raises InvalidInput for files that cannot be used."""
        context = self._context(alone=True)
        if (self.client_cert is None) != (self.client_key is None):
            raise InvalidInput("--client-cert and --client-key go together")
        if self.client_cert is not None:
            try:
                # A key under a passphrase would be asked for on the terminal.
                context.load_cert_chain(self.client_cert, self.client_key, password=lambda: "")
            except (OSError, ValueError) as error:
                raise InvalidInput("--client-cert, --client-key: the files cannot be used") from error
        return context

    def store_context(self) -> ssl.SSLContext:
        """TLS towards the lab's store, which may have a public certificate or one of the lab's own."""
        return self._context(alone=False)

    def _context(self, *, alone: bool) -> ssl.SSLContext:
        context = ssl.create_default_context() if self.ca is None or not alone else _empty()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ca is not None:
            try:
                context.load_verify_locations(cafile=self.ca)
            except (OSError, ValueError) as error:
                raise InvalidInput(f"--ca: {self.ca}: the file cannot be used") from error
        return context


def _empty() -> ssl.SSLContext:
    """Certificates and names are checked, against no authority yet."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
