"""``dsvault audit``."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from vault_cli.entries import details
from vault_cli.opening import open_vault
from vault_cli.options import Json, VaultDir
from vault_cli.output import emit, table

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


@app.command()
def show(
    last: Annotated[int | None, typer.Option("--last", metavar="N", min=1, help="Only the newest N entries.")] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Show the log, opened with the auditor's key."""
    opened = open_vault(vault)
    entries = opened.audit_entries()
    names = {state.id: state.name for state in opened.vendors()}
    if last is not None:
        entries = entries[-last:]
    documents = [
        {
            "sequence": sequence,
            "time": entry.time.isoformat(),
            "kind": entry.kind.value,
            **_named(entry.fields, names),
        }
        for sequence, entry in entries
    ]

    def human() -> None:
        rows = [
            (
                sequence,
                entry.time.isoformat(timespec="seconds"),
                entry.kind.value,
                details(_named(entry.fields, names)),
            )
            for sequence, entry in entries
        ]
        table(("entry", "time", "what", "details"), rows)

    emit({"entries": documents}, json, human)


def _named(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """An entry's fields with the vendor's name: a refusal is written by who knows its id only."""
    vendor = names.get(str(fields.get("vendor_id")))
    return {**({"vendor": vendor} if vendor else {}), **fields}


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
def verify(vault: VaultDir = None, json: Json = False) -> None:
    """Verify the log: no entry was changed, removed, inserted or moved."""
    count = open_vault(vault).audit_verify()
    emit({"ok": True, "entries": count}, json, f"the log is whole: {count} entries")
