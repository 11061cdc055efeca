"""Everything that dsvault raises on purpose.

One tree, so that a caller can catch as much or as little as it means to::

    VaultError
    ├── InvalidInput        what the caller gave is wrong; nothing was changed
    ├── NotFound            the named thing is not there
    ├── Conflict            somebody else changed it first, or the request is ambiguous
    ├── Refused             an access decision said no
    │   ├── NotGranted      no live grant allows it (looks like NotFound from outside)
    │   ├── Unauthenticated the credential is unknown, expired, ended or wrong
    │   ├── LimitReached    the grant's limit of rows, bytes or requests is used up
    │   └── Frozen          the vendor is frozen
    ├── IntegrityError      what was read is not what was written or signed
    ├── KmsError            the KMS refused or failed
    │   └── KeyUnavailable  the KMS key is disabled, destroyed, or not held here
    ├── AuditError          the log could not be written; nothing is served without it
    ├── PartlyDone          an act on several vendors failed for some and is done for the others
    └── Unavailable         a store, catalog or broker could not be reached
        ├── Restarting      the broker is being stopped; what was begun can go on elsewhere
        ├── OtherSchema     the catalog's tables are those of an older or a newer release
        └── Abandoned       whoever asked is not there any more

Two families matter to a reader of the access path: *IntegrityError* says that what was served is
wrong; *Unavailable* says that it could not be fetched. Every message is one sentence for a person
and carries no plaintext, key or token.
"""

from collections.abc import Sequence
from typing import Any

__all__ = [
    "Abandoned",
    "AuditError",
    "Conflict",
    "Frozen",
    "IntegrityError",
    "InvalidInput",
    "KeyUnavailable",
    "KmsError",
    "LimitReached",
    "NotFound",
    "NotGranted",
    "OtherSchema",
    "PartlyDone",
    "Refused",
    "Restarting",
    "Unauthenticated",
    "Unavailable",
    "VaultError",
]


class VaultError(Exception):
    """The root of every error that dsvault raises on purpose."""


class InvalidInput(VaultError):
    """The caller's input is wrong; the message names the file, row or option at fault."""


class NotFound(VaultError):
    """The named dataset, vendor, grant, version or file does not exist."""


class Conflict(VaultError):
    """A concurrent change won, or a request fits more than one grant."""


class Refused(VaultError):
    """An access decision said no."""


class NotGranted(Refused):
    """No live grant allows the request; outside, this looks exactly like an unknown dataset."""


class Unauthenticated(Refused):
    """The credential is unknown, expired, revoked or does not match."""


class LimitReached(Refused):
    """The grant's limit of rows, bytes or requests, in all or for the day, is used up."""


class Frozen(Refused):
    """The vendor is frozen: nothing is served to it until it is thawed."""


class IntegrityError(VaultError):
    """Bytes failed authentication, or disagree with a signature, digest or head."""


class KmsError(VaultError):
    """The KMS refused an operation or failed at it."""


class KeyUnavailable(KmsError):
    """The KMS key is disabled, destroyed, or not held by this process."""


class AuditError(VaultError):
    """An entry could not be appended durably; the act that it would record does not happen."""


class PartlyDone(VaultError):
    """An act on several vendors failed for some of them: ``done`` holds the results of the others."""

    def __init__(self, failures: Sequence[str], done: Sequence[Any]) -> None:
        super().__init__("; ".join(failures))
        self.failures = tuple(failures)
        self.done = tuple(done)


class Unavailable(VaultError):
    """A store, catalog or broker could not be reached, or answered only in part."""


class Restarting(Unavailable):
    """The broker is being stopped and ended a stream early; a client goes on behind what it has."""


class OtherSchema(Unavailable):
    """The catalog has the tables of an older release, which `dsvault upgrade` brings up to date, or of a newer one."""


class Abandoned(Unavailable):
    """Whoever asked for a read has gone away: what is left of it is work for nobody."""
