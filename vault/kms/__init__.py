"""Key management services: the protocol, and the backends that keep its obligations.

The backends that stand on a service are imported when a URI names them.
"""

from vault.kms.announcing import AnnouncingKms
from vault.kms.local import LocalKms
from vault.kms.protocol import DataKey, HashingKms, KeyState, Kms, SigningKms
from vault.kms.uri import keystore_folders, open_kms, open_signing_kms

__all__ = [
    "AnnouncingKms",
    "DataKey",
    "HashingKms",
    "KeyState",
    "Kms",
    "LocalKms",
    "SigningKms",
    "keystore_folders",
    "open_kms",
    "open_signing_kms",
]
