"""What the owner can say of what happened, and does when something did: the log and incidents."""

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from vault import deployment
from vault.errors import InvalidInput
from vault.matching import DEFAULT_SKEW
from vault.owner.opened import Opened

if TYPE_CHECKING:
    from vault.audit import Entry
    from vault.incident import Contained, Outline, Report
    from vault.incident import Evidence as _Evidence
    from vault.reconcile import Reconciled
    from vault.roots import Unrecorded
    from vault.siem import Format
    from vault.workings.proofs import LogProof

__all__ = ["Evidence"]


class Evidence(Opened):
    """The log, and incidents."""

    # Log

    def audit_entries(self) -> "list[tuple[int, Entry]]":
        """The log, opened with the auditor's key."""
        return list(self.parts.journal.entries(self.parts.signers.keys.auditor_secrets()))

    def audit_stream(self, *, newest: int | None = None, after: int | None = None) -> "Iterator[tuple[int, Entry]]":
        """The same one by one, of a log of any length: those behind a number, or so many of the newest."""
        return self.parts.journal.entries(self.parts.signers.keys.auditor_secrets(), newest, after)

    def audit_export(
        self, form: "Format", *, since: int | datetime | None = None, again: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, str]]:
        """The log as lines of JSON, each with its entry's number: those behind a number, or from a time on.

        When all are read, ``again`` is asked: it waits as long as it likes, and says whether to look for more.
        """
        from vault import exporting
        from vault.siem import line

        names = exporting.names(self.parts)
        after = exporting.number_before(self.parts, since)
        for sequence, entry in exporting.follow(self.parts, after, again):
            if entry.fields.get("vendor") and entry.fields.get("vendor_id"):
                names[str(entry.fields["vendor_id"])] = str(entry.fields["vendor"])
            yield sequence, line(form, self.parts.vault, sequence, entry, names)

    def unrecorded(self) -> "list[Unrecorded]":
        """The live grants and credentials that the log does not know."""
        from vault import roots

        return roots.unrecorded(self.parts)

    def audit_verify(self, *, witness: str | None = None, checkpoints: Sequence[tuple[str, bytes]] = ()) -> int:
        """Verify the log against the checkpoints of the store and the witness; returns the number of entries.

        ``witness`` is the URL of another witness, and ``checkpoints`` are notes that somebody kept, each with a word on
        where it is from. Raises IntegrityError.
        """
        store = deployment.open_witness(self.folder, witness) if witness is not None else None
        return self.parts.journal.verify(witness=store, asked=True, kept=checkpoints)

    def audit_checkpoint(self) -> bytes:
        """The signed note of where the log ends, left at the store and the witness too."""
        self.parts.journal.settle()
        end = self.parts.journal.end()
        if end is None:
            raise InvalidInput("the log has no entry yet")
        return end[0]

    def audit_proof(self, sequence: int) -> "LogProof":
        """The proof that an entry is in the log; raises InvalidInput where there is none."""
        from vault.workings.proofs import inclusion_of

        return inclusion_of(self.parts.journal, sequence)

    def audit_growth(self, checkpoint: bytes) -> "LogProof":
        """The proof that the log only grew since a checkpoint; raises IntegrityError where it did not."""
        from vault.workings.proofs import growth_since

        return growth_since(self.parts.journal, self.parts.root, checkpoint)

    def reconcile(
        self,
        *logs: "str | os.PathLike[str]",
        since: datetime | None = None,
        until: datetime | None = None,
        skew: timedelta = DEFAULT_SKEW,
        audit_device: str | None = None,
    ) -> "Reconciled":
        """Compare files of the KMS's own log with what the log says that dsvault's processes asked the KMS for.

        They are an OpenBao audit device's or CloudTrail's; ``audit_device`` is the device whose hashes stand in the
        place of contexts. ``skew`` is how far the clocks may be apart.
        """
        from vault import reconcile

        hashed = deployment.audit_hasher(self.folder, audit_device) if audit_device is not None else None
        period = reconcile.Period(since, until)
        return reconcile.reconcile(self.parts, [Path(log) for log in logs], period, skew, hashed)

    # Incidents

    def incident_report(
        self, vendor: str, *, since: "str | datetime | timedelta | None" = None, until: "str | datetime | None" = None
    ) -> "Report":
        """What a vendor was served and could have been, from the log; needs the auditor's key.

        ``since`` is a moment or how long ago, as text in ISO 8601 or like ``2h``. Raises NotFound for a vendor that the
        log does not know, and IntegrityError where the log does not verify.
        """
        from vault import incident

        return incident.report(self.parts, vendor, since, until)

    def contain(
        self,
        vendor: str,
        datasets: Sequence[str] | None = None,
        *,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
        told: Callable[[str], None] = lambda _sentence: None,
        bundle: "str | os.PathLike[str] | None" = None,
    ) -> "Contained":
        """Freeze a vendor, end its grants and credentials, make its keys worthless, and prove it.

        In all its compartments, or those of the named datasets. May be killed, and the same call goes on; nothing is
        ever thawed by it. What fails is raised with a note that says what is done and what is left. ``bundle`` is the
        file that the evidence is written to (`vault.incident.verify_bundle`).
        """
        from vault import incident

        grace = deployment.grace(self.folder)
        target = Path(bundle) if bundle is not None else None
        return incident.contain(self.parts, vendor, datasets, grace=grace, progress=progress, told=told, bundle=target)

    def verify_bundle(self, bundle: "str | os.PathLike[str]") -> "_Evidence":
        """Check an evidence bundle against this vault: also that it leaves out no entry of the log."""
        from vault import incident

        return incident.verify_against(self.parts, bundle)

    def plan_containment(self, vendor: str, datasets: Sequence[str] | None = None) -> "Outline":
        """What `contain` of the same would do, and about how long it would take; changes nothing."""
        from vault import incident

        return incident.outline(self.parts, vendor, datasets)
