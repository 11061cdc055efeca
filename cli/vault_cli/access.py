"""``dsvault grant``, ``grants``, ``revoke``, ``credential`` and ``fetch``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vault_cli.opening import open_vault, split_names
from vault_cli.options import Json, VaultDir
from vault_cli.output import emit, progress, table

if TYPE_CHECKING:
    import pyarrow as pa

    from vault.grants import GrantState

__all__ = ["app", "fetch", "grant", "grants", "revoke"]

app = typer.Typer(no_args_is_help=True)
_PREVIEW_ROWS = 20


def grant(
    vendor: Annotated[str, typer.Argument(metavar="VENDOR")],
    dataset: Annotated[str, typer.Argument(metavar="DATASET")],
    columns: Annotated[str, typer.Option("--columns", metavar="a,b", help="The columns to grant.")],
    where: Annotated[str | None, typer.Option("--where", metavar="EXPR", help="Only the rows that pass.")] = None,
    expires: Annotated[str | None, typer.Option("--expires", metavar="DUR", help="90s, 15m, 12h, 30d.")] = None,
    purpose: Annotated[str | None, typer.Option("--purpose", metavar="TEXT", help="Shown and logged.")] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Grant a vendor columns of a dataset, of its newest and later versions."""
    from vault.encoding import duration

    life = duration(expires, "--expires") if expires is not None else None
    made = open_vault(vault).grant(vendor, dataset, split_names(columns), where=where, expires=life, purpose=purpose)
    names = ", ".join(column.name for column in made.columns)
    emit(
        {
            "id": made.id,
            "vendor": vendor,
            "dataset": dataset,
            "columns": [column.name for column in made.columns],
            "where": made.where_text,
            "expires": made.expires.isoformat() if made.expires else None,
        },
        json,
        f"granted {vendor} {names} of {dataset}\ngrant {made.id}",
    )


def grants(
    vendor: Annotated[str | None, typer.Option("--vendor", metavar="V", help="Only this vendor's.")] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """List the grants."""
    states = open_vault(vault).grants(vendor)
    emit(
        {"grants": [_grant_document(state) for state in states]},
        json,
        lambda: table(
            ("grant", "vendor", "dataset", "state", "columns", "where", "expires"),
            [
                (
                    state.grant.id,
                    state.grant.vendor_name,
                    state.grant.dataset_name,
                    state.state,
                    ", ".join(column.name for column in state.grant.columns),
                    state.grant.where_text,
                    state.grant.expires.isoformat(timespec="seconds") if state.grant.expires else "never",
                )
                for state in states
            ],
        ),
    )


def _grant_document(state: "GrantState") -> dict[str, Any]:
    return {
        "id": state.grant.id,
        "vendor": state.grant.vendor_name,
        "dataset": state.grant.dataset_name,
        "state": state.state,
        "columns": [column.name for column in state.grant.columns],
        "where": state.grant.where_text,
        "purpose": state.grant.purpose,
        "expires": state.grant.expires.isoformat() if state.grant.expires else None,
    }


def revoke(
    grant_id: Annotated[str, typer.Argument(metavar="GRANT-ID")], vault: VaultDir = None, json: Json = False
) -> None:
    """End a grant; running streams under it end too."""
    open_vault(vault).revoke(grant_id)
    emit({"id": grant_id, "state": "revoked"}, json, f"revoked {grant_id}")


@app.command()
def issue(
    vendor: Annotated[str, typer.Argument(metavar="VENDOR")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The profile file to write.")],
    expires: Annotated[str, typer.Option("--expires", metavar="DUR", help="90s, 15m, 12h, 30d.")] = "30d",
    endpoint: Annotated[str | None, typer.Option("--endpoint", metavar="URL", help="The broker's base URL.")] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Make a credential and write it, with its secret, to a profile file for the vendor."""
    from vault.encoding import duration
    from vault.errors import InvalidInput

    life = duration(expires, "--expires")
    if output.exists():
        raise InvalidInput(f"-o: {output}: the file exists already; a profile is never overwritten")
    if not output.absolute().parent.is_dir():
        raise InvalidInput(f"-o: {output}: there is no such directory")
    issued = open_vault(vault).issue_credential(vendor, expires=life, endpoint=endpoint)
    issued.save(output)
    emit(
        {"id": issued.id, "vendor": vendor, "expires": issued.profile.expires, "file": str(output)},
        json,
        f"wrote {output}: hand it to {vendor} over a safe way, and keep no copy",
    )


@app.command("list")
def list_(vault: VaultDir = None, json: Json = False) -> None:
    """List the credentials."""
    states = open_vault(vault).credentials()
    rows = [
        {
            "id": state.credential.id,
            "vendor": state.vendor_name,
            "state": state.state,
            "expires": state.credential.expires.isoformat(timespec="seconds"),
        }
        for state in states
    ]
    headings = ("id", "vendor", "state", "expires")
    emit({"credentials": rows}, json, lambda: table(headings, [tuple(row[name] for name in headings) for row in rows]))


@app.command("revoke")
def revoke_credential(
    credential_id: Annotated[str, typer.Argument(metavar="ID")], vault: VaultDir = None, json: Json = False
) -> None:
    """End a credential."""
    open_vault(vault).revoke_credential(credential_id)
    emit({"id": credential_id, "state": "revoked"}, json, f"revoked {credential_id}")


def fetch(
    dataset: Annotated[str, typer.Argument(metavar="DATASET")],
    profile: Annotated[Path, typer.Option("--profile", metavar="FILE", help="Your profile file.")],
    grant_id: Annotated[str | None, typer.Option("--grant", metavar="ID", help="The grant to read under.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="A .parquet, .jsonl, .csv or .arrow file.")
    ] = None,
    columns: Annotated[str | None, typer.Option("--columns", metavar="a,b", help="Only these columns.")] = None,
    where: Annotated[str | None, typer.Option("--where", metavar="EXPR", help="Only these rows.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=0, help="At most this many rows.")] = None,
    vault: VaultDir = None,  # noqa: ARG001
    json: Json = False,
) -> None:
    """Fetch what was granted to you, with nothing but your profile: to a file, or as a preview."""
    from vault.client import connect
    from vault.sinks import check_ending, write_table_as

    if output is not None:
        check_ending(output)
    shown = limit if limit is not None else (_PREVIEW_ROWS if output is None and not json else None)
    names = split_names(columns) if columns is not None else None
    reader = connect(profile).open(dataset).scan(columns=names, where=where, limit=shown, grant=grant_id)
    if output is None:
        _show(reader.read_all(), json, limited=shown)
        return
    with progress("fetching", "rows", json) as on_progress:
        rows = write_table_as(reader, output, lambda done: on_progress(done, shown))
    emit({"dataset": dataset, "rows": rows, "file": str(output)}, json, f"wrote {rows} rows to {output}")


def _show(found: "pa.Table", as_json: bool, limited: int | None) -> None:
    from vault.sinks import plain_rows

    if as_json:
        emit({"rows": plain_rows(found)}, True, "")
        return
    table(found.column_names, [tuple(_short(cell) for cell in row.values()) for row in found.to_pylist()])
    if limited is not None and found.num_rows == limited:
        typer.echo(f"\nthe first {limited} rows; -o FILE writes all of them", err=True)


def _short(cell: object) -> str:
    text = " ".join(str(cell).split()) if cell is not None else ""
    return text if len(text) <= 60 else text[:59] + "…"
