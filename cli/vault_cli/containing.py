"""``dsvault incident contain`` and ``verify``."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vault_cli.opening import open_vault
from vault_cli.options import Json, VaultDir
from vault_cli.output import counted, emit, note, progress, table

if TYPE_CHECKING:
    from vault.incident import Contained, Evidence, Outline

__all__ = ["contain", "verify"]


def contain(
    vendor: Annotated[str, typer.Argument(metavar="VENDOR", help="The vendor's name.")],
    datasets: Annotated[
        list[str] | None,
        typer.Option("--dataset", metavar="D", help="Rekey its copy of this dataset only; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and about how long, and change nothing.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", metavar="BUNDLE", help="Where the evidence goes (default: a file here).")
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Freeze a vendor, end its grants and credentials, rekey and rewrap what it had, prove it, and make the evidence.

    The freeze counts at once, whatever happens then. A run that was stopped or failed is taken up by the same command.
    """
    opened, names = open_vault(vault), datasets or None
    if dry_run:
        planned = opened.plan_containment(vendor, names)
        emit({**asdict(planned), "chunks": planned.chunks, "bytes": planned.bytes}, json, lambda: _outlined(planned))
        return
    with progress("rekeying", "bytes", json) as on_progress:
        done = opened.contain(
            vendor,
            names,
            progress=on_progress,
            told=lambda sentence: None if json else note(sentence),
            bundle=output or Path(f"{vendor}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.evidence.zip"),
        )
    emit(asdict(done), json, lambda: _told(done))


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The evidence bundle.")],
    root: Annotated[
        str | None,
        typer.Option("--root", metavar="FINGERPRINT", help="The fingerprint of the vault's root document, if known."),
    ] = None,
    vault: Annotated[
        Path | None,
        typer.Option("--vault", metavar="DIR", help="Check as well that it leaves out no entry of this vault's log."),
    ] = None,
    json: Json = False,
) -> None:
    """Check an evidence bundle: signatures, proofs, and that its report follows from its entries. Needs no vault."""
    from vault.incident import verify_bundle

    found = verify_bundle(bundle, root)
    if vault is not None:
        found = open_vault(vault).verify_bundle(bundle)
    emit({"ok": True, "complete": vault is not None, **asdict(found)}, json, lambda: _shown(found, vault))


def _outlined(planned: "Outline") -> None:
    typer.echo(f"{planned.vendor} is {'frozen already' if planned.frozen else 'not frozen: that would come first'}")
    typer.echo(f"would end: {counted(planned.grants, 'grant')}, {counted(planned.credentials, 'credential')}")
    table(("rekey", "chunks", "bytes"), [(each.dataset, each.chunks, each.bytes) for each in planned.compartments])
    typer.echo(
        f"would move {counted(planned.data_keys, 'data key')}, and those that the rekey makes, to a new KMS key, "
        f"and disable {planned.kms_key}"
    )
    if planned.rate is not None:
        measured = f"{planned.rate / 1e6:.0f} MB/s as measured here on a sample of {planned.sampled / 1e6:.1f} MB"
        typer.echo(f"about {planned.seconds} s for the rekey: an estimate, from {measured}")
    typer.echo("nothing was changed")


def _told(done: "Contained") -> None:
    typer.echo(
        f"""contained {done.vendor}{"" if done.changed else " (it had been before)"}
ended:     {counted(done.grants, "grant")}, {counted(done.credentials, "credential")}
rekeyed:   {counted(done.chunks, "chunk")}, {done.bytes} bytes
rewrapped: {counted(done.data_keys, "data key")}; disabled {", ".join(done.kms_keys)}
proven:    coverage {done.coverage}"""
    )
    if done.bundle is not None:
        typer.echo(f"evidence:  {done.bundle.path}, {done.bundle.entries} entries; 'dsvault incident verify' checks it")
    for reason in done.in_doubt:
        typer.echo(f"IN DOUBT: {reason}")


def _shown(found: "Evidence", vault: Path | None) -> None:
    grown = "" if found.older_size is None else f", and grew from the one of {found.older_size} before the incident"
    typer.echo(
        f"""the bundle holds
vendor:      {found.vendor} ({found.vendor_id}), of the vault {found.vault}
frozen:      {found.frozen[1]}, entry {found.frozen[0]}
contained:   {found.contained[1]}, entry {found.contained[0]}
proven:      {found.chunks} live chunks in {found.compartments} compartments under new keys, and nothing left of before
entries:     {found.entries} in a log of {found.size}{grown}
report:      it follows from those entries"""
    )
    if vault is not None:
        typer.echo("complete:    it leaves out no entry of the vault's log that concerns the vendor")
    else:
        typer.echo("complete:    not shown by the bundle; 'incident verify BUNDLE --vault DIR' asks the vault's log")
    for reason in found.in_doubt:
        typer.echo(f"IN DOUBT:    {reason}")
    if found.pinned:
        typer.echo(f"root:        {found.fingerprint}, as asked for")
    else:
        typer.echo(f"root:        {found.fingerprint}: COMPARE it with the fingerprint that you know of the vault")
