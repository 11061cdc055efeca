"""``dsvault audit``."""

from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from vault.errors import InvalidInput
from vault_cli.entries import details
from vault_cli.exporting import export
from vault_cli.files import read_bytes
from vault_cli.opening import open_vault
from vault_cli.options import Json, VaultDir
from vault_cli.output import emit, emit_each, table
from vault_cli.reconciling import reconcile

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)
app.command()(export)
app.command()(reconcile)
_ROWS = 1000
Output = Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write it there.")]


@app.command()
def show(
    last: Annotated[int | None, typer.Option("--last", metavar="N", min=1, help="Only the newest N entries.")] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Show the log, opened with the auditor's key."""
    from vault.siem import document

    opened = open_vault(vault)
    names = {state.id: state.name for state in opened.vendors()}
    shown = (document(sequence, entry, names) for sequence, entry in opened.audit_stream(newest=last))
    if json:
        emit_each("entries", shown)
        return
    while rows := [_row(each) for each in islice(shown, _ROWS)]:
        table(("entry", "time", "what", "details"), rows)


def _row(entry: Mapping[str, Any]) -> tuple[object, ...]:
    fields = {name: value for name, value in entry.items() if name not in {"sequence", "time", "kind"}}
    return entry["sequence"], entry["time"][:19] + entry["time"][-6:], entry["kind"], details(fields)


@app.command()
def compare(vault: VaultDir = None, json: Json = False) -> None:
    """Name the live grants and credentials that the log does not know; needs the auditor's key."""
    unknown = open_vault(vault).unrecorded()
    rows = [(each.vendor, each.kind, each.id) for each in unknown]
    emit(
        {"ok": not unknown, "unrecorded": [asdict(each) for each in unknown]},
        json,
        (lambda: table(("vendor", "what", "id"), rows)) if rows else "the log knows every live grant and credential",
    )
    if unknown:
        typer.echo(f"dsvault: {len(unknown)} live statements are not in the log", err=True)
        raise typer.Exit(1)


@app.command()
def verify(
    witness: Annotated[
        str | None, typer.Option("--witness", metavar="URL", help="Hold the log against this witness too.")
    ] = None,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", metavar="FILE", help="Hold the log against a checkpoint that somebody kept."),
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Verify the log: no entry was changed, removed, inserted or moved, and it was neither rolled back nor forked.

    It is held against the checkpoints in the store and at the configured witness.
    """
    kept = [(str(path), read_bytes(path, "--checkpoint")) for path in checkpoints or ()]
    count = open_vault(vault).audit_verify(witness=witness, checkpoints=kept)
    emit({"ok": True, "entries": count}, json, f"the log is whole: {count} entries")


@app.command()
def checkpoint(output: Output = None, vault: VaultDir = None, json: Json = False) -> None:
    """Print, or write to a file, the signed checkpoint of the log as it is now.

    Who keeps it holds the log to every entry so far: 'audit verify --checkpoint FILE' refuses any other log.
    """
    from vault.workings.files import put_new_file

    note = open_vault(vault).audit_checkpoint()
    if output is not None:
        put_new_file(output, note)
    said = f"wrote the checkpoint to {output}" if output is not None else note.decode().rstrip("\n")
    emit({"checkpoint": note.decode(), "output": str(output) if output is not None else None}, json, said)


@app.command()
def prove(
    entry: Annotated[int | None, typer.Argument(metavar="ENTRY", min=1, help="The number of an entry.")] = None,
    since: Annotated[
        Path | None, typer.Option("--since", metavar="FILE", help="Prove that the log only grew since this checkpoint.")
    ] = None,
    output: Output = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Prove that an entry is in the log, or that the log only grew since a checkpoint.

    'audit check-proof FILE' checks the proof without the vault. It tells nothing of what an entry says.
    """
    if (entry is None) == (since is None):
        raise InvalidInput("name an entry by its number, or give --since FILE")
    from vault.workings.files import put_new_file

    opened = open_vault(vault)
    if entry is not None:
        proof = opened.audit_proof(entry)
    else:
        assert since is not None
        proof = opened.audit_growth(read_bytes(since, "--since"))
    if output is not None:
        put_new_file(output, proof.encode())
    emit(
        proof.document if output is None else {"output": str(output)},
        json or output is None,
        f"wrote the proof to {output}",
    )


@app.command("check-proof")
def check_proof(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A proof that 'audit prove' wrote.")],
    fingerprint: Annotated[
        str, typer.Option("--root", metavar="FINGERPRINT", help="The fingerprint of the vault's root document.")
    ],
    json: Json = False,
) -> None:
    """Check a proof against the fingerprint of a vault's root document; no vault is needed."""
    from vault.workings import proofs

    shown = proofs.check_proof(read_bytes(file, "FILE"), fingerprint.strip().lower())
    if shown.sequence is not None:
        said = f"entry {shown.sequence} is in the log of {shown.size} entries"
    else:
        said = f"the log of {shown.size} entries begins with the {shown.old} entries of the earlier checkpoint"
    emit({"ok": True, **asdict(shown)}, json, f"{said} of vault {shown.vault}, signed as of {shown.time}")
