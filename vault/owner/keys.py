"""What the owner does with keys: those of data, those in the KMS, and those that sign."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vault.owner.opened import Opened
from vault.trust import Role, Signed

if TYPE_CHECKING:
    from vault.custody import Custody, Privileges
    from vault.rewrap import Rewrapped
    from vault.roots import Applied, KeyState, Rotated
    from vault.rotate import Planned, Rekeyed
    from vault.trust.proposals import Change

__all__ = ["Keys"]


class Keys(Opened):
    """Keys of data, of the KMS, and of the root document."""

    # Data

    def rekey(
        self,
        vendor: str | None = None,
        dataset: str | None = None,
        columns: Sequence[str] | None = None,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> "list[Rekeyed]":
        """Encrypt compartments, or some columns of theirs, anew under their next epoch."""
        from vault import rotate

        return rotate.rekey(self.parts, vendor, dataset, columns, progress)

    def plan_rekey(
        self, vendor: str | None = None, dataset: str | None = None, columns: Sequence[str] | None = None
    ) -> "list[Planned]":
        """What `rekey` of the same would encrypt anew."""
        from vault import rotate

        return rotate.plan(self.parts, vendor, dataset, columns)

    def rewrap(
        self,
        vendor: str | None = None,
        *,
        prepare: bool = False,
        disable_old: bool = False,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> "list[Rewrapped]":
        """Wrap data keys anew under the next KMS key of a vendor, or of everyone; no object is read."""
        from vault import rewrap

        return rewrap.rewrap(self.parts, vendor, prepare=prepare, disable_old=disable_old, progress=progress)

    # In the KMS

    def kms_keys(self) -> "list[Custody]":
        """Every holder's KMS key and how the KMS says that it stands."""
        from vault import custody

        return custody.custody(self.parts)

    def disable_kms_key(self, vendor: str, key: str | None = None) -> tuple[str, ...]:
        """Disable a vendor's KMS keys, or the one named; returns their references."""
        from vault import custody

        return custody.disable(self.parts, vendor, key)

    def enable_kms_key(self, vendor: str, key: str | None = None) -> tuple[str, ...]:
        """Undo `disable_kms_key`."""
        from vault import custody

        return custody.enable(self.parts, vendor, key)

    def privileges(self, vendor: str) -> "Privileges":
        """The KMS keys and contexts that a broker needs for a vendor's live grants, and no more."""
        from vault import custody

        return custody.privileges(self.parts, vendor)

    # Root document

    def root_keys(self) -> "list[KeyState]":
        """Every key that the root document names."""
        from vault import roots

        return roots.key_states(self.parts)

    def propose_root(self, change: "Change") -> Signed:
        """The next root document, signed by the administrator whose key is here, if one is."""
        from vault import roots

        return roots.propose_change(self.parts, change)

    def apply_root(self, proposal: Signed, leave_out: Sequence[str] = (), *, end_grants: bool = False) -> "Applied":
        """Make a proposal the newest root document, with everything live signed anew under keys that count.

        Vendors in ``leave_out`` end up frozen, without grants and credentials. Live grants that lack signatures are a
        Conflict, unless ``end_grants`` lets them end.
        """
        from vault import roots

        return roots.apply(self.parts, proposal, leave_out, end_grants=end_grants)

    def rotate_key(
        self, role: Role, kms: str | None = None, leave_out: Sequence[str] = (), *, end_grants: bool = False
    ) -> "Rotated":
        """Replace a role's key by a new one, in a file or in the KMS of a URI.

        Where others must sign first, the proposal is returned unapplied.
        """
        from vault import roots

        return roots.rotate(self.parts, role, kms, leave_out, end_grants=end_grants)
