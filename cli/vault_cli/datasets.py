"""``dsvault init``, ``publish`` and ``dataset``: the data engineer's commands."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vault.errors import InvalidInput
from vault_cli.opening import open_vault, split_names
from vault_cli.options import Json, VaultDir
from vault_cli.output import emit, progress, table

__all__ = ["app", "init", "publish"]

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The dataset's name.")]


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The directory to make the vault in.")],
    store: Annotated[str | None, typer.Option(help="An fsspec URL for the objects (default: inside DIR).")] = None,
    catalog: Annotated[str | None, typer.Option(help="A SQLAlchemy URL (default: SQLite inside DIR).")] = None,
    kms: Annotated[str | None, typer.Option(help="local: (keystore files inside DIR) or local:///path.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="The broker's base URL, for vendors' profiles.")] = None,
    json: Json = False,
) -> None:
    """Make a vault. DSVAULT_PASSPHRASE, if set, seals every private key file."""
    from vault import owner

    vault = owner.init(folder, store=store, catalog=catalog, kms=kms, endpoint=endpoint)
    fingerprint = vault.parts.root.fingerprint
    emit(
        {"folder": str(folder), "vault": vault.parts.vault, "root_fingerprint": fingerprint},
        json,
        f"made a vault in {folder}\nroot fingerprint {fingerprint}",
    )


def publish(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Files, directories, globs or URLs.")],
    dataset: Annotated[str, typer.Option("--dataset", metavar="NAME", help="The dataset, made if it is new.")],
    key: Annotated[str | None, typer.Option("--key", metavar="COLUMN", help="The column that identifies rows.")] = None,
    assign_by: Annotated[
        str | None,
        typer.Option("--assign-by", metavar="COLUMN", help="The column that names the vendor who gets a row."),
    ] = None,
    no_key: Annotated[bool, typer.Option("--no-key", help="End what --key said before.")] = False,
    no_assign_by: Annotated[bool, typer.Option("--no-assign-by", help="Give all rows to all from now on.")] = False,
    group: Annotated[
        list[str] | None, typer.Option("--group", metavar="G=a,b", help="Columns under one key; repeatable.")
    ] = None,
    shard_rows: Annotated[int, typer.Option("--shard-rows", metavar="N", min=1, help="At most so many.")] = 131_072,
    append: Annotated[bool, typer.Option("--append", help="Add rows to the newest version instead.")] = False,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Publish a version of a dataset from JSONL, JSON, CSV, Parquet or Arrow files."""
    for option, value, ended in (("key", key, no_key), ("assign-by", assign_by, no_assign_by)):
        if value == "" or (value and ended):
            raise InvalidInput(f"--{option}: name a column, or end it with --no-{option}, not both")
    groups = dict(_group(text) for text in group or [])
    opened = open_vault(vault)
    with progress("publishing", "bytes", json) as on_progress:
        done = opened.publish(
            dataset,
            sources,
            key="" if no_key else key,
            assign_by="" if no_assign_by else assign_by,
            groups=groups,
            shard_rows=shard_rows,
            append=append,
            progress=on_progress,
        )
    fanned = f", fanned out to {', '.join(done.vendors)}" if done.vendors else ""
    emit(asdict(done), json, f"published {done.dataset} version {done.version}: {done.rows} rows{fanned}")


def _group(text: str) -> tuple[str, list[str]]:
    name, separator, columns = text.partition("=")
    names = split_names(columns)
    if not separator or not name.strip() or not names:
        raise InvalidInput(f"--group: {text!r} is not of the form G=a,b")
    return name.strip(), names


@app.command("list")
def list_(vault: VaultDir = None, json: Json = False) -> None:
    """List the datasets."""
    states = open_vault(vault).datasets()
    emit(
        {"datasets": [asdict(state) for state in states]},
        json,
        lambda: table(
            ("dataset", "version", "rows", "columns", "bytes"),
            [(state.name, state.version, state.rows, state.columns, state.bytes) for state in states],
        ),
    )


@app.command()
def show(name: Name, vault: VaultDir = None, json: Json = False) -> None:
    """Show a dataset's columns, versions and grants."""
    detail = open_vault(vault).show(name)
    columns = [
        {"name": field.name, "type": str(field.type), "id": detail.column_ids[field.name]} for field in detail.schema
    ]
    grants: list[dict[str, Any]] = [
        {
            "id": state.grant.id,
            "vendor": state.grant.vendor_name,
            "columns": [column.name for column in state.grant.columns],
            "where": state.grant.where_text,
            "state": state.state,
        }
        for state in detail.grants
    ]
    versions = [asdict(state) for state in detail.versions]

    def human() -> None:
        typer.echo(f"{detail.name}  key: {detail.key or '-'}  assigned by: {detail.assign_by or '-'}\n")
        table(("column", "type"), [(column["name"], column["type"]) for column in columns])
        typer.echo()
        headings = ("version", "created", "rows", "shards", "bytes")
        table(headings, [tuple(version[heading] for heading in headings) for version in versions])
        typer.echo()
        rows = [(g["vendor"], g["state"], ", ".join(g["columns"]), g["where"], g["id"]) for g in grants]
        table(("granted to", "state", "columns", "where", "grant"), rows)

    document = {
        "name": detail.name,
        "key": detail.key,
        "assign_by": detail.assign_by,
        "columns": columns,
        "versions": versions,
        "grants": grants,
    }
    emit(document, json, human)


@app.command()
def export(
    name: Name,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help=".parquet, .jsonl, .csv, .arrow")],
    columns: Annotated[str | None, typer.Option("--columns", metavar="a,b", help="Only these columns.")] = None,
    where: Annotated[str | None, typer.Option("--where", metavar="EXPR", help="Only these rows.")] = None,
    version: Annotated[int | None, typer.Option("--version", min=1, help="A version (default: the newest).")] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Write a version in plaintext to a file, as its owner."""
    from vault.sinks import check_ending, write_table_as

    check_ending(output)
    reader = open_vault(vault).scan(
        name, columns=split_names(columns) if columns is not None else None, where=where, version=version
    )
    with progress("exporting", "rows", json) as on_progress:
        rows = write_table_as(reader, output, lambda done: on_progress(done, None))
    emit({"dataset": name, "rows": rows, "file": str(output)}, json, f"wrote {rows} rows to {output}")
