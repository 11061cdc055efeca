"""A KMS before another one, which says of every blob that it is to open what it is for, before it is asked.

Whatever a process has opened goes through here, so that nothing is opened that was not announced. An announcement
that nothing came of (the KMS refused, or could not be reached) says more than happened, never less.
"""

from collections.abc import Callable, Mapping
from typing import final

from vault.kms.protocol import DataKey, KeyState, Kms

__all__ = ["AnnouncingKms"]


@final
class AnnouncingKms:
    """Every method is the other KMS's; ``announce`` is called with the context ahead of `unwrap` and `rewrap`.

    A new data key is not announced: nothing that was there before is opened by making it.
    """

    def __init__(self, kms: Kms, announce: Callable[[Mapping[str, str]], None]) -> None:
        self._kms = kms
        self._announce = announce

    @property
    def destruction(self) -> str:
        """As the KMS says."""
        return self._kms.destruction

    def create_key(self, label: str, *, owner: bool = False) -> str:
        """As the KMS does."""
        return self._kms.create_key(label, owner=owner)

    def rotate_key(self, key: str, label: str) -> str:
        """As the KMS does."""
        return self._kms.rotate_key(key, label)

    def generate_data_key(self, key: str, context: Mapping[str, str]) -> DataKey:
        """As the KMS does."""
        return self._kms.generate_data_key(key, context)

    def wrap(self, key: str, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        """As the KMS does."""
        return self._kms.wrap(key, plaintext, context)

    def unwrap(self, key: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """As the KMS does, once it is announced."""
        self._announce(context)
        return self._kms.unwrap(key, wrapped, context)

    def rewrap(self, source: str, wrapped: bytes, context: Mapping[str, str], target: str) -> bytes:
        """As the KMS does, once it is announced: one blob is opened, by the service or in this process."""
        self._announce(context)
        return self._kms.rewrap(source, wrapped, context, target)

    def disable_key(self, key: str) -> None:
        """As the KMS does."""
        self._kms.disable_key(key)

    def enable_key(self, key: str) -> None:
        """As the KMS does."""
        self._kms.enable_key(key)

    def destroy_key(self, key: str) -> None:
        """As the KMS does."""
        self._kms.destroy_key(key)

    def state(self, key: str) -> KeyState:
        """As the KMS says."""
        return self._kms.state(key)

    def reach(self) -> None:
        """As the KMS does; nothing is opened, so that nothing is announced."""
        self._kms.reach()

    def __repr__(self) -> str:
        return f"AnnouncingKms({self._kms!r})"
