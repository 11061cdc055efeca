"""``dsvault backup`` and ``dsvault restore``."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vault.errors import InvalidInput
from vault_cli.opening import open_vault
from vault_cli.options import Json, VaultDir
from vault_cli.output import counted, emit, note

if TYPE_CHECKING:
    from vault.safekeeping import BackedUp

__all__ = ["backup", "restore"]

_PASSPHRASE = "DSVAULT_BACKUP_PASSPHRASE"  # noqa: S105 - the name of a variable


def _passphrase(*, new: bool) -> str:
    """The passphrase of the file with the keys: from the environment, or asked for. It is never an argument."""
    import sys

    found = os.environ.get(_PASSPHRASE)
    if found:
        return found
    if not sys.stdin.isatty():
        raise InvalidInput(f"--keys: the file is under a passphrase of its own; set {_PASSPHRASE}")
    return str(typer.prompt("passphrase of the exported keys", hide_input=True, confirmation_prompt=new, err=True))


def backup(
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="FILE", help="Write the owner's keys there, under a passphrase of their own."),
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Bring the backup in the store up to date and say what is in it, or export the owner's keys.

    The store gets every administrative change by itself. What a restore needs besides the store and the KMS is the
    file that --keys writes; its passphrase is in DSVAULT_BACKUP_PASSPHRASE, or asked for.
    """
    if keys is not None:
        _export(keys, vault, json)
        return
    found = open_vault(vault).backup()
    emit(asdict(found), json, lambda: _show(found))
    if found.unexported is None:
        note("the owner's keys were never exported from here: 'dsvault backup --keys FILE'; without them nothing opens")
    elif found.unexported:
        files = counted(len(found.unexported), "key file")
        note(f"{files} changed since the owner's keys were exported: run 'dsvault backup --keys FILE' again")


def _export(keys: Path, vault: Path | None, json: bool) -> None:
    from vault import owner

    if keys.exists():
        raise InvalidInput(f"--keys: {keys} exists already; exported keys are never overwritten")
    exported = owner.backup_keys(keys, _passphrase(new=True), vault)
    told = (
        f"wrote {counted(exported.keys, 'key file')} to {keys}, under the passphrase; keep both where the store is not"
    )
    emit(asdict(exported), json, told)


def _show(found: "BackedUp") -> None:
    typer.echo(f"the store has the catalog up to change {found.change}, with a snapshot of change {found.snapshot}")
    typer.echo(f"and the log up to entry {found.entries}")
    typer.echo(f"catalog: {counted(found.objects, 'object')}, {found.bytes:,} bytes")
    typer.echo(f"log: {counted(found.log_objects, 'object')}, {found.log_bytes:,} bytes")


def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the vault's directory is to be.")],
    store: Annotated[str, typer.Option("--store", metavar="URL", help="The vault's store.")],
    kms: Annotated[str, typer.Option("--kms", metavar="URI", help="The vault's KMS.")],
    catalog: Annotated[
        str | None, typer.Option("--catalog", metavar="URL", help="An empty database (default: a file inside DIR).")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", metavar="FILE", help="What 'dsvault backup --keys' wrote.")
    ] = None,
    root_fingerprint: Annotated[
        str | None,
        typer.Option(
            "--root-fingerprint", metavar="HEX", help="Which vault is meant; needed where the keys are in DIR already."
        ),
    ] = None,
    witness: Annotated[
        str | None, typer.Option("--witness", metavar="URL", help="The log's witness (default: as it was configured).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check everything; write nothing, neither here nor there.")
    ] = False,
    vault: Annotated[Path | None, typer.Option("--vault", hidden=True)] = None,
    json: Json = False,
) -> None:
    """Make a vault's directory and catalog anew from its store, its KMS and the owner's exported keys.

    What is older than anything that is known is refused. May be killed and run again. The exported keys' passphrase is
    in DSVAULT_BACKUP_PASSPHRASE, or asked for.
    """
    from vault import owner

    if vault is not None:
        raise InvalidInput("--vault: a restore takes the directory as its argument")
    restored = owner.restore(
        folder,
        store=store,
        kms=kms,
        catalog=catalog,
        keys=keys,
        passphrase=_passphrase(new=False) if keys is not None else None,
        root_fingerprint=root_fingerprint,
        witness=witness,
        dry_run=dry_run,
    )
    for sentence in restored.told:
        note(sentence)
    held = f"{counted(restored.vendors, 'vendor')} and {counted(restored.datasets, 'dataset')}"
    up_to = f"up to change {restored.change} of the catalog and entry {restored.entries} of the log"
    told = f"it can be restored: {held}, {up_to}" if dry_run else f"restored {folder}: {held}, {up_to}"
    emit({**asdict(restored), "dry_run": dry_run}, json, told)
