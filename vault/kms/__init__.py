"""Key management services: the protocol, and the backends that keep its obligations.

The backends that stand on a service are imported when a URI names them.
"""

from vault.kms.local import LocalKms
from vault.kms.protocol import DataKey, KeyState, Kms
from vault.kms.uri import open_kms

__all__ = ["DataKey", "KeyState", "Kms", "LocalKms", "open_kms"]
