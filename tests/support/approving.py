"""Approvers of a lab: their keys, which no vault holds, and ways to have them sign."""

from dataclasses import dataclass

from tests.conftest import Lab
from vault.approvals import Approval
from vault.trust import Role, Signed, Signer
from vault.trust.approvals import add_approval
from vault.trust.proposals import Change

__all__ = ["Approvers", "protect"]


@dataclass(frozen=True)
class Approvers:
    """Approvers whom the root document names."""

    signers: tuple[Signer, ...]

    @classmethod
    def added(cls, lab: Lab, count: int = 1) -> "Approvers":
        """Add approvers with fresh keys to a lab's root document."""
        signers = tuple(Signer(bytes([0xA0 + number]) * 32) for number in range(count))
        change = Change(add=tuple((Role.APPROVER, signer.public) for signer in signers))
        lab.vault.apply_root(lab.vault.propose_root(change))
        return cls(signers)

    @property
    def ids(self) -> list[str]:
        """Their keys' ids."""
        return [signer.key_id for signer in self.signers]

    def sign(self, signed: Signed, by: int = 0) -> Signed:
        """A grant's statement with one more signature."""
        return add_approval(signed, self.signers[by])

    def approve(self, lab: Lab, grant: str, by: int = 0) -> Approval:
        """One of them signs a grant, and the owner takes it over."""
        return lab.vault.approve(self.sign(lab.vault.approval(grant).signed, by))


def protect(lab: Lab, dataset: str, signers: int = 2, approvers: int = 1) -> Approvers:
    """Add approvers and protect a dataset that nobody has a grant on."""
    found = Approvers.added(lab, approvers)
    lab.vault.protect(dataset, signers)
    return found
