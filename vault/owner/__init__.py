"""The lab's own side in Python: `init` and `open` give a `Vault`, whose methods are the verbs.

Each verb is imported by the method that is called: one that freezes a vendor does not wait for what reads tables.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vault import deployment
from vault.encoding import timestamp, utcnow
from vault.errors import InvalidInput, NotFound
from vault.model import DEFAULT_SHARD_ROWS
from vault.networks import check_endpoint
from vault.owner.evidence import Evidence
from vault.owner.keys import Keys
from vault.trust import Grant, Signed
from vault.workings.parts import OwnerParts

if TYPE_CHECKING:
    import pyarrow as pa

    from vault.approvals import Approval
    from vault.collect import Collected
    from vault.credentials import CredentialState
    from vault.datasets import DatasetDetail, DatasetState
    from vault.deletion import Deleted, Expired
    from vault.erasure import Erased
    from vault.holdings import GrantState
    from vault.offboard import Offboarded
    from vault.publish import Published
    from vault.restoring import Restored
    from vault.roots import Protection
    from vault.safekeeping import BackedUp, Exported
    from vault.scrub import CheckReport
    from vault.submissions import Accepted, SubmissionDetail, SubmissionState
    from vault.upgrading import Upgraded
    from vault.vendors import VendorState
    from vault.viewing import OwnedDataset
    from vault.wire import Profile

__all__ = ["IssuedProfile", "Vault", "backup_keys", "init", "open", "restore", "upgrade"]

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


def open(  # noqa: A001
    folder: "str | os.PathLike[str] | None" = None,
    *,
    engine: str = "local",
    ray_address: str | None = None,
    urgent: bool = False,
) -> "Vault":
    """Open a vault as its owner: the given one, else ``$DSVAULT``, else the nearest upwards.

    With the engine ``ray`` publishes, fan-outs and rekeys are done by the workers of a Ray cluster: the one at
    ``ray_address``, the one that the process has joined, or one that is started on this machine. ``urgent`` is for what
    only takes access away, such as `Vault.freeze`: a store that cannot be reached does not hold it up. Raises
    InvalidInput.
    """
    path = deployment.find_vault(os.fspath(folder) if folder is not None else None)
    if engine not in {"local", "ray"}:
        raise InvalidInput("--engine: use local or ray")
    if engine == "local" and ray_address is not None:
        raise InvalidInput("--ray-address: it goes with --engine ray")
    parts = deployment.open_owner(path, urgent=urgent)
    if engine == "ray":
        from vault.engines import RayEngine
        from vault.worker import RayWorkers

        parts = replace(parts, workers=RayWorkers(path, parts.vault, RayEngine(ray_address)))
    return Vault(path, parts, urgent=urgent)


def upgrade(folder: "str | os.PathLike[str] | None" = None) -> "Upgraded":
    """Bring the catalog of a vault that an older release made to this release's schema; may be run again."""
    return deployment.upgrade(deployment.find_vault(os.fspath(folder) if folder is not None else None))


def backup_keys(
    target: "str | os.PathLike[str]", passphrase: str, folder: "str | os.PathLike[str] | None" = None
) -> "Exported":
    """Write the owner's keys and configuration to a new file under a passphrase; needs neither catalog nor store."""
    from vault import safekeeping

    path = deployment.find_vault(os.fspath(folder) if folder is not None else None)
    found = deployment.Configuration.read(path / "owner" / "config.toml")
    return safekeeping.export_keys(
        path, found.vault, found.root_fingerprint, found.kms, Path(target), passphrase, utcnow()
    )


def restore(
    folder: "str | os.PathLike[str]",
    *,
    store: str,
    kms: str,
    catalog: str | None = None,
    keys: "str | os.PathLike[str] | None" = None,
    passphrase: str | None = None,
    root_fingerprint: str | None = None,
    witness: str | None = None,
    dry_run: bool = False,
) -> "Restored":
    """Make a vault's directory and catalog anew from its store, its KMS and the file that `backup_keys` wrote.

    ``passphrase`` is that file's. Without ``keys`` the owner's keys lie in the directory already, and
    ``root_fingerprint`` is needed. ``dry_run`` only finds out whether it could be done. See `vault.restoring.restore`.
    """
    from vault import restoring

    source = restoring.Source(
        store, kms, catalog, Path(keys) if keys is not None else None, passphrase, root_fingerprint, witness
    )
    return restoring.restore(Path(folder).absolute(), source, dry_run=dry_run)


@dataclass(frozen=True, slots=True, repr=False)
class IssuedProfile:
    """A new credential as the profile that a vendor is handed, once."""

    profile: "Profile"
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


class Vault(Keys, Evidence):
    """An open vault, as its owner. Every change is in the audit log when the method returns."""

    def __init__(self, folder: Path, parts: OwnerParts, *, urgent: bool = False) -> None:
        from vault import roots

        self.folder = folder
        self.parts = parts
        if urgent:
            return
        # What a killed run left between its commit and the store is put right before anything else.
        roots.reconcile(parts)
        parts.backups.save_left()

    # Vendors

    def add_vendor(self, name: str) -> str:
        """Add a vendor; returns its id."""
        from vault import vendors

        return vendors.add_vendor(self.parts, name).id

    def vendors(self) -> "list[VendorState]":
        """Every vendor and how it stands."""
        from vault import vendors

        return vendors.vendors(self.parts)

    def freeze(self, vendor: str) -> bool:
        """Stop everything of a vendor; nothing is deleted. False where it was frozen already."""
        from vault import vendors

        return vendors.freeze(self.parts, vendor)

    def thaw(self, vendor: str) -> bool:
        """Let a frozen vendor read again. False where it was not frozen."""
        from vault import vendors

        return vendors.thaw(self.parts, vendor)

    def offboard(self, vendor: str) -> "Offboarded":
        """End a vendor for good: its access, its KMS key and its wrapped keys. gc then takes its objects."""
        from vault import offboard

        return offboard.offboard(self.parts, vendor)

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
    ) -> "Published":
        """Publish a version from paths, an Arrow table or reader, or anything with ``__arrow_c_stream__``.

        ``append`` adds rows to the newest one, with ``evolve`` also columns and wider types; ``columns_only`` adds
        columns to its rows or replaces some. ``compression`` is a Parquet codec.
        """
        from vault import publish

        options = publish.PublishOptions(
            key, assign_by, groups or {}, shard_rows, append, evolve, columns_only, compression, compression_level
        )
        return publish.publish(self.parts, dataset, source, options, progress)

    def rename_column(self, dataset: str, old: str, new: str) -> "Published":
        """Give a column another name in a new version; grants of it hold on."""
        from vault import publish

        return publish.rename(self.parts, dataset, old, new)

    def datasets(self) -> "list[DatasetState]":
        """Every dataset and its newest version."""
        from vault import datasets

        return datasets.datasets(self.parts)

    def show(self, dataset: str) -> "DatasetDetail":
        """A dataset's versions, columns, and who was granted what."""
        from vault import datasets

        return datasets.show(self.parts, dataset)

    def scan(
        self,
        dataset: str,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        limit: int | None = None,
        version: int | None = None,
    ) -> "pa.RecordBatchReader":
        """The owner's own read; it is logged like any other."""
        from vault import datasets

        return datasets.scan(self.parts, dataset, columns=columns, where=where, limit=limit, version=version)

    def dataset(
        self, name: str, version: int | None = None, *, as_of: str | datetime | timedelta | None = None
    ) -> "OwnedDataset":
        """A dataset to be read by what reads tables, lazily too: of the newest version, of one, or as of a time.

        ``as_of`` is a time, or how long ago. Raises NotFound for a version that there is not, or not any more.
        """
        from vault import viewing

        opened = viewing.Opened(deployment.open_owner, self.folder, self.parts)
        return viewing.owned(opened, name, version, as_of)

    def delete(self, dataset: str) -> "Deleted":
        """End every grant on a dataset, and the dataset in every compartment."""
        from vault import deletion

        return deletion.delete(self.parts, dataset)

    def expire(self, dataset: str, keep: int) -> "Expired":
        """Take away all versions of a dataset but the newest ``keep``."""
        from vault import deletion

        return deletion.expire(self.parts, dataset, keep)

    def erase(
        self,
        dataset: str,
        *,
        keys: Sequence[object] | None = None,
        where: str | None = None,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> "Erased":
        """Erase rows from every version and compartment, by their keys or by a predicate."""
        from vault import erasure

        return erasure.erase(self.parts, dataset, keys=keys, where=where, progress=progress)

    def protect(self, dataset: str, signers: int, *, end_grants: bool = False) -> "Protection":
        """Let a grant on a dataset count only with so many signatures: the authority's, and approvers'; 1 ends that.

        Where more administrators must sign this, the proposal is returned unapplied. Live grants that lack signatures
        are a Conflict, unless ``end_grants`` lets them end.
        """
        from vault import roots

        return roots.protect(self.parts, dataset, signers, end_grants=end_grants)

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
        from vault import grants

        terms = grants.Terms(expires, starts, purpose, masks or {}, limits or {}, delivery, version)
        return grants.grant(self.parts, vendor, dataset, columns, where=where, terms=terms)

    def resume_grant(self, grant: str) -> Grant:
        """Finish a grant that was left pending by a run that was killed."""
        from vault import grants

        return grants.resume_grant(self.parts, grant)

    def approval(self, grant: str) -> "Approval":
        """A grant's statement as approvers are to sign it, and what it lacks."""
        from vault import approvals

        return approvals.request(self.parts, grant)

    def approve(self, signed: "Signed | str | os.PathLike[str]") -> "Approval":
        """Take over the approvals in a grant's file, or in its statement; it is live when none is missing."""
        from vault import approvals

        offered = signed if isinstance(signed, Signed) else approvals.read(Path(signed))[0]
        return approvals.approve(self.parts, offered)

    def grants(self, vendor: str | None = None) -> "list[GrantState]":
        """Every grant and how it stands."""
        from vault import holdings

        return holdings.grants(self.parts, vendor)

    def revoke(self, grant: str) -> None:
        """End a grant."""
        from vault import holdings

        holdings.revoke(self.parts, grant)

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
        from vault import credentials
        from vault.proof import ProofKey, requested_key
        from vault.wire import Profile, Token
        from vault.workings import submissionkeys

        if bearer and request is not None:
            raise InvalidInput("--bearer, --request: a bearer credential is bound to no key")
        # A vendor's client would refuse any other, and its profile would be of no use.
        if endpoint is not None:
            reached = check_endpoint(endpoint, "--endpoint")
        else:
            reached = check_endpoint(deployment.endpoint(self.folder), f"{self.folder / 'owner'}/config.toml: endpoint")
        key = None if bearer or request is not None else ProofKey.create()
        thumbprint = requested_key(request) if request is not None else (key.thumbprint if key is not None else None)
        sealed_to = submissionkeys.public_key(self.parts) if not bearer else None
        issued = credentials.issue_credential(self.parts, vendor, expires, thumbprint, networks)
        profile = Profile(
            endpoint=reached,
            vault=self.parts.vault,
            vendor=vendor,
            token=Token(issued.credential.id, issued.secret, bound=not bearer),
            expires=timestamp(issued.credential.expires),
            root_fingerprint=self.parts.root.fingerprint,
            thumbprint=thumbprint,
            key=key.document() if key is not None else None,
            submission_key=sealed_to,
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
        from vault import credentials
        from vault.federation import Provider

        provider = Provider(issuer, audience, claims, jwks)
        return credentials.federate(self.parts, vendor, expires, provider, networks).id

    def credentials(self) -> "list[CredentialState]":
        """Every credential and how it stands."""
        from vault import credentials

        return credentials.credentials(self.parts)

    def revoke_credential(self, credential: str) -> None:
        """End a credential."""
        from vault import credentials

        credentials.revoke_credential(self.parts, credential)

    def end_delegation(self, vendor: str, delegation: str) -> bool | None:
        """End a delegation that a vendor made, and every one that came from it.

        Says whether the log has a request under it, None where the log cannot be opened here. NotFound where it has it
        under another vendor alone.
        """
        from vault import credentials

        return credentials.end_delegation(self.parts, vendor, delegation)

    # Submissions

    def submissions(self, vendor: str | None = None) -> "list[SubmissionState]":
        """What vendors sent back, and how it stands."""
        from vault import submissions

        return submissions.submissions(self.parts, vendor)

    def submission(self, submission: str, vendor: str | None = None) -> "SubmissionDetail":
        """A submission, opened and checked; its ``table`` is what the vendor sent.

        ``vendor`` is whose it is, where the catalog has another of the same id.
        """
        from vault import submissions

        return submissions.submission(self.parts, submission, vendor)

    def accept_submission(
        self,
        submission: str,
        rename: Mapping[str, str] | None = None,
        *,
        merge: bool = False,
        vendor: str | None = None,
    ) -> "Accepted":
        """Make a submission's columns those of a new version; ``merge`` fills nulls of earlier ones' columns."""
        from vault import submissions

        return submissions.accept(self.parts, submission, rename, merge=merge, vendor_name=vendor)

    def reject_submission(self, submission: str, reason: str, vendor: str | None = None) -> "SubmissionState":
        """Refuse a submission, for a reason that the log keeps; its vendor is told nothing."""
        from vault import submissions

        return submissions.reject(self.parts, submission, reason, vendor)

    def reject_submissions(self, vendor: str, reason: str) -> "list[SubmissionState]":
        """Refuse all that waits of a vendor, as after a breach; they are returned."""
        from vault import submissions

        return submissions.reject_waiting(self.parts, vendor, reason)

    def rotate_submission_key(self) -> tuple[str | None, str]:
        """Make a new key for vendors to seal to, for profiles from now on; returns the names of the old one and it."""
        from vault.workings import submissionkeys

        return submissionkeys.rotate(self.parts)

    # Upkeep

    def check(self, progress: Callable[[int], None] = lambda _done: None, *, epochs: bool = False) -> "CheckReport":
        """Read and check everything, or with ``epochs`` only the ends of chunks; changes nothing."""
        from vault import scrub

        return scrub.check(self.parts, progress, epochs=epochs)

    def gc(self, grace: timedelta | None = None) -> "Collected":
        """Remove what nothing needs any more, and was superseded longer than ``grace`` ago (default: as configured)."""
        from vault import collect

        return collect.collect(self.parts, deployment.grace(self.folder) if grace is None else grace)

    def catalog_roles(self, brokers: Mapping[str, Sequence[str]] | None = None) -> str:
        """SQL that gives the owner, a responder, brokers and an auditor a PostgreSQL role of their own.

        ``brokers`` names further roles, each for brokers of some vendors only. Nothing is run here.
        """
        ids = {state.name: state.id for state in self.vendors()}
        for name in (name for named in (brokers or {}).values() for name in named if name not in ids):
            raise NotFound(f"--broker: there is no vendor named '{name}'")
        found = {role: [ids[name] for name in named] for role, named in (brokers or {}).items()}
        return self.parts.catalog.roles(self.parts.owner, found)

    def backup(self) -> "BackedUp":
        """Bring the backup of catalog and log in the store up to date, with a snapshot, and say what is in it."""
        from vault import safekeeping

        return safekeeping.back_up(self.parts, self.folder, deployment.kms_uri(self.folder))

    def __repr__(self) -> str:
        return f"Vault({self.folder})"
