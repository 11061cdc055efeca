"""The lab's own side in Python: `init` and `open` give a `Vault`, whose methods are the verbs."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from vault import approvals as _approvals
from vault import collect as _collect
from vault import credentials as _credentials
from vault import custody as _custody
from vault import datasets as _datasets
from vault import deletion as _deletion
from vault import deployment
from vault import erasure as _erasure
from vault import exporting as _exporting
from vault import grants as _grants
from vault import incident as _incident
from vault import offboard as _offboard
from vault import publish as _publish
from vault import reconcile as _reconcile
from vault import rewrap as _rewrap
from vault import roots as _roots
from vault import rotate as _rotate
from vault import scrub as _scrub
from vault import vendors as _vendors
from vault.audit import Entry
from vault.encoding import timestamp
from vault.errors import InvalidInput, NotFound
from vault.federation import Provider
from vault.networks import check_endpoint
from vault.proof import ProofKey, requested_key
from vault.publish import DEFAULT_SHARD_ROWS
from vault.siem import Format, line
from vault.trust import Grant, Role, Signed
from vault.trust.proposals import Change
from vault.upgrading import Upgraded
from vault.wire import Profile, Token
from vault.workings.parts import OwnerParts
from vault.workings.proofs import LogProof, growth_since, inclusion_of

__all__ = ["IssuedProfile", "Vault", "init", "open", "upgrade"]

DEFAULT_CREDENTIAL_LIFE = timedelta(days=30)
_Progress = Callable[[int, int | None], None]


def init(
    folder: "str | os.PathLike[str]",
    *,
    store: str | None = None,
    catalog: str | None = None,
    kms: str | None = None,
    endpoint: str | None = None,
    witness: str | None = None,
    witness_required: bool = False,
) -> "Vault":
    """Make a vault and open it; raises InvalidInput where there is one already."""
    deployment.init(
        Path(folder),
        store=store,
        catalog=catalog,
        kms=kms,
        endpoint=endpoint,
        witness=witness,
        witness_required=witness_required,
    )
    return open(folder)


def open(folder: "str | os.PathLike[str] | None" = None) -> "Vault":  # noqa: A001
    """Open a vault as its owner: the given one, else ``$DSVAULT``, else the nearest upwards."""
    path = deployment.find_vault(os.fspath(folder) if folder is not None else None)
    return Vault(path, deployment.open_owner(path))


def upgrade(folder: "str | os.PathLike[str] | None" = None) -> Upgraded:
    """Bring the catalog of a vault that an older release made to this release's schema; may be run again."""
    return deployment.upgrade(deployment.find_vault(os.fspath(folder) if folder is not None else None))


@dataclass(frozen=True, slots=True, repr=False)
class IssuedProfile:
    """A new credential as the profile that a vendor is handed, once."""

    profile: Profile
    id: str

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Write the profile, readable for its owner only; raises InvalidInput when the file exists."""
        import json

        target = Path(path)
        try:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise InvalidInput(f"{target}: the file exists already; a profile is never overwritten") from error
        except OSError as error:
            raise InvalidInput(f"{target}: the profile cannot be written ({error.strerror})") from error
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(self.profile.document(), indent=2) + "\n")

    def __repr__(self) -> str:
        return f"IssuedProfile({self.id})"


class Vault:
    """An open vault, as its owner. Every change is in the audit log when the method returns."""

    def __init__(self, folder: Path, parts: OwnerParts) -> None:
        self.folder = folder
        self.parts = parts
        # What a killed run left between its commit and the store is put right before anything else.
        _roots.reconcile(parts)

    # Vendors

    def add_vendor(self, name: str) -> str:
        """Add a vendor; returns its id."""
        return _vendors.add_vendor(self.parts, name).id

    def vendors(self) -> list[_vendors.VendorState]:
        """Every vendor and how it stands."""
        return _vendors.vendors(self.parts)

    def freeze(self, vendor: str) -> bool:
        """Stop everything of a vendor; nothing is deleted. False where it was frozen already."""
        return _vendors.freeze(self.parts, vendor)

    def thaw(self, vendor: str) -> bool:
        """Let a frozen vendor read again. False where it was not frozen."""
        return _vendors.thaw(self.parts, vendor)

    def offboard(self, vendor: str) -> _offboard.Offboarded:
        """End a vendor for good: its access, its KMS key and its wrapped keys. gc then takes its objects."""
        return _offboard.offboard(self.parts, vendor)

    # Datasets

    def publish(
        self,
        dataset: str,
        source: Any,
        *,
        key: str | None = None,
        assign_by: str | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        shard_rows: int = DEFAULT_SHARD_ROWS,
        append: bool = False,
        evolve: bool = False,
        columns_only: bool = False,
        compression: str = "zstd",
        compression_level: int | None = None,
        progress: _Progress = lambda _done, _total: None,
    ) -> _publish.Published:
        """Publish a version from paths, an Arrow table or reader, or anything with ``__arrow_c_stream__``.

        ``append`` adds rows to the newest one, with ``evolve`` also columns and wider types; ``columns_only`` adds
        columns to its rows or replaces some. ``compression`` is a Parquet codec.
        """
        options = _publish.PublishOptions(
            key, assign_by, groups or {}, shard_rows, append, evolve, columns_only, compression, compression_level
        )
        return _publish.publish(self.parts, dataset, source, options, progress)

    def rename_column(self, dataset: str, old: str, new: str) -> _publish.Published:
        """Give a column another name in a new version; grants of it hold on."""
        return _publish.rename(self.parts, dataset, old, new)

    def datasets(self) -> list[_datasets.DatasetState]:
        """Every dataset and its newest version."""
        return _datasets.datasets(self.parts)

    def show(self, dataset: str) -> _datasets.DatasetDetail:
        """A dataset's versions, columns, and who was granted what."""
        return _datasets.show(self.parts, dataset)

    def scan(
        self,
        dataset: str,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        limit: int | None = None,
        version: int | None = None,
    ) -> pa.RecordBatchReader:
        """The owner's own read; it is logged like any other."""
        return _datasets.scan(self.parts, dataset, columns=columns, where=where, limit=limit, version=version)

    def delete(self, dataset: str) -> _deletion.Deleted:
        """End every grant on a dataset, and the dataset in every compartment."""
        return _deletion.delete(self.parts, dataset)

    def expire(self, dataset: str, keep: int) -> _deletion.Expired:
        """Take away all versions of a dataset but the newest ``keep``."""
        return _deletion.expire(self.parts, dataset, keep)

    def erase(
        self,
        dataset: str,
        *,
        keys: Sequence[object] | None = None,
        where: str | None = None,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> _erasure.Erased:
        """Erase rows from every version and compartment, by their keys or by a predicate."""
        return _erasure.erase(self.parts, dataset, keys=keys, where=where, progress=progress)

    def protect(self, dataset: str, signers: int, *, end_grants: bool = False) -> _roots.Protection:
        """Let a grant on a dataset count only with so many signatures: the authority's, and approvers'; 1 ends that.

        Where more administrators must sign this, the proposal is returned unapplied. Live grants that lack signatures
        are a Conflict, unless ``end_grants`` lets them end.
        """
        return _roots.protect(self.parts, dataset, signers, end_grants=end_grants)

    # Grants

    def grant(
        self,
        vendor: str,
        dataset: str,
        columns: Sequence[str],
        *,
        where: str | None = None,
        expires: timedelta | None = None,
        purpose: str | None = None,
        starts: datetime | None = None,
        masks: Mapping[str, str] | None = None,
        limits: Mapping[str, int] | None = None,
        delivery: str = "stream",
        version: int | None = None,
    ) -> Grant:
        """Grant columns, and the rows that ``where`` keeps, of the newest and later versions, or of ``version`` alone.

        A column is a name or, of a nested one, a path to a field such as ``meta.source``, with double quotes around
        names that are not plain; the name of a column comes before a path.

        ``masks`` says by column what stands in the place of its values (`vault.masks`), such as ``{"email": "hash"}``;
        ``limits`` how much may be served under the grant (`vault.limits`), such as ``{"rows_per_day": 1000}``. It
        counts from ``starts`` on, and ``expires`` after that. On a protected dataset it is pending until `approve` has
        brought the approvers' signatures. ``delivery`` is ``stream``, or ``lease`` for one who may
        fetch the ciphertext itself with the keys of its chunks.
        """
        terms = _grants.Terms(expires, starts, purpose, masks or {}, limits or {}, delivery, version)
        return _grants.grant(self.parts, vendor, dataset, columns, where=where, terms=terms)

    def resume_grant(self, grant: str) -> Grant:
        """Finish a grant that was left pending by a run that was killed."""
        return _grants.resume_grant(self.parts, grant)

    def approval(self, grant: str) -> _approvals.Approval:
        """A grant's statement as approvers are to sign it, and what it lacks."""
        return _approvals.request(self.parts, grant)

    def approve(self, signed: "Signed | str | os.PathLike[str]") -> _approvals.Approval:
        """Take over the approvals in a grant's file, or in its statement; it is live when none is missing."""
        offered = signed if isinstance(signed, Signed) else _approvals.read(Path(signed))[0]
        return _approvals.approve(self.parts, offered)

    def grants(self, vendor: str | None = None) -> list[_grants.GrantState]:
        """Every grant and how it stands."""
        return _grants.grants(self.parts, vendor)

    def revoke(self, grant: str) -> None:
        """End a grant."""
        _grants.revoke(self.parts, grant)

    # Credentials

    def issue_credential(
        self,
        vendor: str,
        *,
        expires: timedelta = DEFAULT_CREDENTIAL_LIFE,
        endpoint: str | None = None,
        bearer: bool = False,
        request: "str | os.PathLike[str] | None" = None,
        networks: Sequence[str] = (),
    ) -> IssuedProfile:
        """Make a credential for a vendor; the secret is in the returned profile and nowhere else.

        It is bound to a key that signs each of the vendor's requests: the one that asks for it in the file ``request``,
        else one that is made here and handed over in the profile. ``bearer`` makes one that its secret alone is enough
        for. ``networks`` are CIDR ranges that it may be used from.
        """
        if bearer and request is not None:
            raise InvalidInput("--bearer, --request: a bearer credential is bound to no key")
        # A vendor's client would refuse any other, and its profile would be of no use.
        if endpoint is not None:
            reached = check_endpoint(endpoint, "--endpoint")
        else:
            reached = check_endpoint(deployment.endpoint(self.folder), f"{self.folder / 'owner'}/config.toml: endpoint")
        key = None if bearer or request is not None else ProofKey.create()
        thumbprint = requested_key(request) if request is not None else (key.thumbprint if key is not None else None)
        issued = _credentials.issue_credential(self.parts, vendor, expires, thumbprint, networks)
        profile = Profile(
            endpoint=reached,
            vault=self.parts.vault,
            vendor=vendor,
            token=Token(issued.credential.id, issued.secret, bound=not bearer),
            expires=timestamp(issued.credential.expires),
            root_fingerprint=self.parts.root.fingerprint,
            thumbprint=thumbprint,
            key=key.document() if key is not None else None,
        )
        return IssuedProfile(profile, issued.credential.id)

    def federate(
        self,
        vendor: str,
        *,
        issuer: str,
        audience: str,
        claims: Mapping[str, str],
        jwks: str | None = None,
        expires: timedelta = DEFAULT_CREDENTIAL_LIFE,
        networks: Sequence[str] = (),
    ) -> str:
        """Accept the tokens of a vendor's own identity provider that have these claims; returns the credential's id."""
        provider = Provider(issuer, audience, claims, jwks)
        return _credentials.federate(self.parts, vendor, expires, provider, networks).id

    def credentials(self) -> list[_credentials.CredentialState]:
        """Every credential and how it stands."""
        return _credentials.credentials(self.parts)

    def revoke_credential(self, credential: str) -> None:
        """End a credential."""
        _credentials.revoke_credential(self.parts, credential)

    def end_delegation(self, vendor: str, delegation: str) -> bool | None:
        """End a delegation that a vendor made, and every one that came from it.

        Says whether the log has a request under it, None where the log cannot be opened here. NotFound where it has it
        under another vendor alone.
        """
        return _credentials.end_delegation(self.parts, vendor, delegation)

    # Upkeep

    def rekey(
        self,
        vendor: str | None = None,
        dataset: str | None = None,
        columns: Sequence[str] | None = None,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> list[_rotate.Rekeyed]:
        """Encrypt compartments, or some columns of theirs, anew under their next epoch."""
        return _rotate.rekey(self.parts, vendor, dataset, columns, progress)

    def plan_rekey(
        self, vendor: str | None = None, dataset: str | None = None, columns: Sequence[str] | None = None
    ) -> list[_rotate.Planned]:
        """What `rekey` of the same would encrypt anew."""
        return _rotate.plan(self.parts, vendor, dataset, columns)

    def rewrap(
        self,
        vendor: str | None = None,
        *,
        prepare: bool = False,
        disable_old: bool = False,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> list[_rewrap.Rewrapped]:
        """Wrap data keys anew under the next KMS key of a vendor, or of everyone; no object is read."""
        return _rewrap.rewrap(self.parts, vendor, prepare=prepare, disable_old=disable_old, progress=progress)

    # KMS keys

    def kms_keys(self) -> list[_custody.Custody]:
        """Every holder's KMS key and how the KMS says that it stands."""
        return _custody.custody(self.parts)

    def disable_kms_key(self, vendor: str, key: str | None = None) -> tuple[str, ...]:
        """Disable a vendor's KMS keys, or the one named; returns their references."""
        return _custody.disable(self.parts, vendor, key)

    def enable_kms_key(self, vendor: str, key: str | None = None) -> tuple[str, ...]:
        """Undo `disable_kms_key`."""
        return _custody.enable(self.parts, vendor, key)

    def privileges(self, vendor: str) -> _custody.Privileges:
        """The KMS keys and contexts that a broker needs for a vendor's live grants, and no more."""
        return _custody.privileges(self.parts, vendor)

    def check(
        self, progress: Callable[[int], None] = lambda _done: None, *, epochs: bool = False
    ) -> _scrub.CheckReport:
        """Read and check everything, or with ``epochs`` only the ends of chunks; changes nothing."""
        return _scrub.check(self.parts, progress, epochs=epochs)

    def gc(self, grace: timedelta | None = None) -> _collect.Collected:
        """Remove what nothing needs any more, and was superseded longer than ``grace`` ago (default: as configured)."""
        return _collect.collect(self.parts, deployment.grace(self.folder) if grace is None else grace)

    def catalog_roles(self, brokers: Mapping[str, Sequence[str]] | None = None) -> str:
        """SQL that gives the owner, a responder, brokers and an auditor a PostgreSQL role of their own.

        ``brokers`` names further roles, each for brokers of some vendors only. Nothing is run here.
        """
        ids = {state.name: state.id for state in self.vendors()}
        for name in (name for named in (brokers or {}).values() for name in named if name not in ids):
            raise NotFound(f"--broker: there is no vendor named '{name}'")
        found = {role: [ids[name] for name in named] for role, named in (brokers or {}).items()}
        return self.parts.catalog.roles(self.parts.owner, found)

    # Audit

    def audit_entries(self) -> list[tuple[int, Entry]]:
        """The log, opened with the auditor's key."""
        return list(self.parts.journal.entries(self.parts.signers.keys.auditor_secrets()))

    def audit_stream(self, *, newest: int | None = None, after: int | None = None) -> Iterator[tuple[int, Entry]]:
        """The same one by one, of a log of any length: those behind a number, or so many of the newest."""
        return self.parts.journal.entries(self.parts.signers.keys.auditor_secrets(), newest, after)

    def audit_export(
        self, form: Format, *, since: int | datetime | None = None, again: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, str]]:
        """The log as lines of JSON, each with its entry's number: those behind a number, or from a time on.

        When all are read, ``again`` is asked: it waits as long as it likes, and says whether to look for more.
        """
        names = _exporting.names(self.parts)
        after = _exporting.number_before(self.parts, since)
        for sequence, entry in _exporting.follow(self.parts, after, again):
            if entry.fields.get("vendor") and entry.fields.get("vendor_id"):
                names[str(entry.fields["vendor_id"])] = str(entry.fields["vendor"])
            yield sequence, line(form, self.parts.vault, sequence, entry, names)

    def unrecorded(self) -> list[_roots.Unrecorded]:
        """The live grants and credentials that the log does not know."""
        return _roots.unrecorded(self.parts)

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

    def audit_proof(self, sequence: int) -> LogProof:
        """The proof that an entry is in the log; raises InvalidInput where there is none."""
        return inclusion_of(self.parts.journal, sequence)

    def audit_growth(self, checkpoint: bytes) -> LogProof:
        """The proof that the log only grew since a checkpoint; raises IntegrityError where it did not."""
        return growth_since(self.parts.journal, self.parts.root, checkpoint)

    def reconcile(
        self,
        *logs: "str | os.PathLike[str]",
        since: datetime | None = None,
        until: datetime | None = None,
        skew: timedelta = _reconcile.DEFAULT_SKEW,
        audit_device: str | None = None,
    ) -> _reconcile.Reconciled:
        """Compare files of the KMS's own log with what the log says that dsvault's processes asked the KMS for.

        They are an OpenBao audit device's or CloudTrail's; ``audit_device`` is the device whose hashes stand in the
        place of contexts. ``skew`` is how far the clocks may be apart.
        """
        hashed = deployment.audit_hasher(self.folder, audit_device) if audit_device is not None else None
        period = _reconcile.Period(since, until)
        return _reconcile.reconcile(self.parts, [Path(log) for log in logs], period, skew, hashed)

    # Incidents

    def incident_report(
        self, vendor: str, *, since: "str | datetime | timedelta | None" = None, until: "str | datetime | None" = None
    ) -> _incident.Report:
        """What a vendor was served and could have been, from the log alone; needs the auditor's key.

        ``since`` is a moment or how long ago, as text in ISO 8601 or like ``2h``. Raises NotFound for a vendor that the
        log does not know, and IntegrityError where the log does not verify.
        """
        return _incident.report(self.parts, vendor, since, until)

    def contain(
        self,
        vendor: str,
        datasets: Sequence[str] | None = None,
        *,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
        told: Callable[[str], None] = lambda _sentence: None,
        bundle: "str | os.PathLike[str] | None" = None,
    ) -> _incident.Contained:
        """Freeze a vendor, end its grants and credentials, make its keys worthless, and prove it.

        In all its compartments, or those of the named datasets. May be killed, and the same call goes on; nothing is
        ever thawed by it. What fails is raised with a note that says what is done and what is left. ``bundle`` is the
        file that the evidence is written to (`vault.incident.verify_bundle`).
        """
        grace = deployment.grace(self.folder)
        target = Path(bundle) if bundle is not None else None
        return _incident.contain(self.parts, vendor, datasets, grace=grace, progress=progress, told=told, bundle=target)

    def verify_bundle(self, bundle: "str | os.PathLike[str]") -> _incident.Evidence:
        """Check an evidence bundle against this vault: also that it leaves out no entry of the log."""
        return _incident.verify_against(self.parts, bundle)

    def plan_containment(self, vendor: str, datasets: Sequence[str] | None = None) -> _incident.Outline:
        """What `contain` of the same would do, and about how long it would take; changes nothing."""
        return _incident.outline(self.parts, vendor, datasets)

    # Root document

    def root_keys(self) -> list[_roots.KeyState]:
        """Every key that the root document names."""
        return _roots.key_states(self.parts)

    def propose_root(self, change: Change) -> Signed:
        """The next root document, signed by the administrator whose key is here, if one is."""
        return _roots.propose_change(self.parts, change)

    def apply_root(
        self, proposal: Signed, leave_out: Sequence[str] = (), *, end_grants: bool = False
    ) -> _roots.Applied:
        """Make a proposal the newest root document, with everything live signed anew under keys that count.

        Vendors in ``leave_out`` end up frozen, without grants and credentials. Live grants that lack signatures are a
        Conflict, unless ``end_grants`` lets them end.
        """
        return _roots.apply(self.parts, proposal, leave_out, end_grants=end_grants)

    def rotate_key(
        self, role: Role, kms: str | None = None, leave_out: Sequence[str] = (), *, end_grants: bool = False
    ) -> _roots.Rotated:
        """Replace a role's key by a new one, in a file or in the KMS of a URI.

        Where others must sign first, the proposal is returned unapplied.
        """
        return _roots.rotate(self.parts, role, kms, leave_out, end_grants=end_grants)

    def __repr__(self) -> str:
        return f"Vault({self.folder})"
