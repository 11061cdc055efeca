"""``dsvault init``, ``publish`` and ``dataset``: the data engineer's commands."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vault.errors import InvalidInput
from vault_cli.opening import open_vault, split_names
from vault_cli.options import Engine, Json, RayAddress, VaultDir
from vault_cli.output import counted, emit, progress, table

__all__ = ["app", "init", "publish"]

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The dataset's name.")]


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The directory to make the vault in.")],
    store: Annotated[str | None, typer.Option(help="An fsspec URL for the objects (default: inside DIR).")] = None,
    catalog: Annotated[str | None, typer.Option(help="A SQLAlchemy URL (default: SQLite inside DIR).")] = None,
    kms: Annotated[str | None, typer.Option(help="local: (keystore files inside DIR) or local:///path.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="The broker's base URL, for vendors' profiles.")] = None,
    witness: Annotated[
        str | None, typer.Option(help="An fsspec URL that checkpoints of the log go to beside the store.")
    ] = None,
    witness_required: Annotated[
        bool, typer.Option("--witness-required", help="Serve nothing that the witness does not know of.")
    ] = False,
    json: Json = False,
) -> None:
    """Make a vault. DSVAULT_PASSPHRASE, if set, seals every private key file."""
    from vault import owner

    vault = owner.init(
        folder,
        store=store,
        catalog=catalog,
        kms=kms,
        endpoint=endpoint,
        witness=witness,
        witness_required=witness_required,
    )
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
    evolve: Annotated[
        bool, typer.Option("--evolve", help="Let appended rows bring new columns and wider types.")
    ] = False,
    columns_only: Annotated[
        bool,
        typer.Option("--columns-only", help="Add these columns to the newest version's rows, or replace its own."),
    ] = False,
    compression: Annotated[
        str, typer.Option("--compression", metavar="CODEC", help="zstd, lz4, snappy, gzip, none.")
    ] = ("zstd"),
    compression_level: Annotated[
        int | None, typer.Option("--compression-level", metavar="N", help="The codec's level (default: its own).")
    ] = None,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Publish a version of a dataset from JSONL, JSON, CSV, Parquet or Arrow files."""
    for option, value, ended in (("key", key, no_key), ("assign-by", assign_by, no_assign_by)):
        if value == "" or (value and ended):
            raise InvalidInput(f"--{option}: name a column, or end it with --no-{option}, not both")
    groups = dict(_group(text) for text in group or [])
    opened = open_vault(vault, engine, ray_address)
    with progress("publishing", "bytes", json) as on_progress:
        done = opened.publish(
            dataset,
            sources,
            key="" if no_key else key,
            assign_by="" if no_assign_by else assign_by,
            groups=groups,
            shard_rows=shard_rows,
            append=append,
            evolve=evolve,
            columns_only=columns_only,
            compression=compression,
            compression_level=compression_level,
            progress=on_progress,
        )
    fanned = f", fanned out to {', '.join(done.vendors)}" if done.vendors else ""
    emit(asdict(done), json, f"published {done.dataset} version {done.version}: {done.rows} rows{fanned}")


def _group(text: str) -> tuple[str, list[str]]:
    name, separator, columns = text.partition("=")
    if not separator or not name.strip() or not columns.strip(", "):
        raise InvalidInput(f"--group: {text!r} is not of the form G=a,b")
    return name.strip(), split_names(columns, "--group")


@app.command("list")
def list_(vault: VaultDir = None, json: Json = False) -> None:
    """List the datasets."""
    states = open_vault(vault).datasets()
    emit(
        {"datasets": [asdict(state) for state in states]},
        json,
        lambda: table(
            ("dataset", "version", "rows", "columns", "bytes", "signers"),
            [
                (state.name, state.version, state.rows, state.columns, state.bytes, _protected(state.signers))
                for state in states
            ],
        ),
    )


def _protected(signers: int) -> str:
    return f"{signers} (protected)" if signers > 1 else "1"


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
            "columns": state.grant.column_names,
            "where": state.grant.where_text,
            "state": state.state,
        }
        for state in detail.grants
    ]
    versions = [asdict(state) for state in detail.versions]

    def human() -> None:
        typer.echo(
            f"{detail.name}  key: {detail.key or '-'}  assigned by: {detail.assign_by or '-'}  "
            f"signers of a grant: {_protected(detail.signers)}\n"
        )
        table(("column", "type"), [(column["name"], column["type"]) for column in columns])
        typer.echo()
        headings = ("version", "created", "rows", "shards", "bytes", "erased")
        table(headings, [tuple(version[heading] for heading in headings) for version in versions])
        typer.echo()
        rows = [(g["vendor"], g["state"], ", ".join(g["columns"]), g["where"], g["id"]) for g in grants]
        table(("granted to", "state", "columns", "where", "grant"), rows)

    document = {
        "name": detail.name,
        "id": detail.id,
        "signers": detail.signers,
        "key": detail.key,
        "assign_by": detail.assign_by,
        "columns": columns,
        "versions": versions,
        "grants": grants,
    }
    emit(document, json, human)


@app.command()
def protect(
    name: Name,
    signers: Annotated[
        int,
        typer.Option(
            "--signers", metavar="N", help="How many must sign a grant: the authority and approvers; 1: no more."
        ),
    ],
    end_grants: Annotated[
        bool, typer.Option("--end-grants", help="End the live grants that lack signatures, instead of refusing.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Where the proposal goes when others must sign it."),
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Let a grant on a dataset count only when so many people have signed it, by the next root document."""
    from vault_cli.root import tell_proposal, told_applied

    opened = open_vault(vault)
    done = opened.protect(name, signers, end_grants=end_grants)
    about = {"dataset": name, "id": done.id, "signers": signers}
    if done.proposal is not None and done.applied is None:
        tell_proposal(opened, output, done.proposal, done.signed_by, done.needed, json)
        return
    if done.applied is None:
        emit({**about, "changed": False}, json, f"grants on {name} need {signers} signatures already")
        return
    emit(
        {**about, **asdict(done.applied)}, json, told_applied(done.applied, dict.fromkeys(done.applied.protected, name))
    )


@app.command("rename-column")
def rename_column(
    name: Name,
    old: Annotated[str, typer.Argument(metavar="OLD", help="The column's name.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its name from now on.")],
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Give a column another name, in a new version; grants of it hold on."""
    done = open_vault(vault).rename_column(name, old, new)
    emit(asdict(done), json, f"published {done.dataset} version {done.version}: {old} is {new}")


@app.command()
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; this cannot be undone.")] = False,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Delete a dataset: every grant on it, every version, every vendor's copy. This cannot be undone."""
    opened = open_vault(vault)
    if not yes and not typer.confirm(f"delete the dataset {name} for everyone? This cannot be undone", err=True):
        raise typer.Exit(1)
    done = opened.delete(name)
    told = [
        f"deleted {name}: {counted(len(done.versions), 'version')}, {counted(done.grants, 'grant')}, "
        f"copies of {counted(len(done.vendors), 'vendor')}",
        *([f"rejected {counted(done.submissions, 'submission')} that waited for it"] if done.submissions else []),
        *_afterwards(),
    ]
    emit(asdict(done), json, "\n".join(told))


@app.command()
def expire(
    name: Name,
    keep: Annotated[int, typer.Option("--keep", metavar="N", min=1, help="Keep the newest N versions.")],
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Take away all versions of a dataset but the newest."""
    done = open_vault(vault).expire(name, keep)
    held = f"grants are pinned to {_numbers(done.pinned)}; 'dsvault grants' shows them" if done.pinned else ""
    if not done.expired:
        emit(asdict(done), json, held or f"{name} has no more than {counted(keep, 'version')}")
        return
    told = [f"took away {counted(len(done.expired), 'version')} of {name}, and left {_numbers(done.left)}"]
    told += [*_afterwards(), *([held] if held else [])]
    emit(asdict(done), json, "\n".join(told))


@app.command()
def erase(
    name: Name,
    keys: Annotated[
        Path | None, typer.Option("--keys", metavar="FILE", help="Rows whose key is in this file, one in each line.")
    ] = None,
    where: Annotated[str | None, typer.Option("--where", metavar="EXPR", help="Rows for which this is true.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; this cannot be undone.")] = False,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Erase rows from every version and every vendor's copy, under fresh keys. This cannot be undone."""
    opened = open_vault(vault)
    if (keys is None) == (where is None):
        raise InvalidInput("say which rows: with --keys FILE or with --where EXPR")
    values = _lines(keys) if keys is not None else None
    if not yes and not typer.confirm(f"erase these rows of {name} for everyone? This cannot be undone", err=True):
        raise typer.Exit(1)
    with progress("erasing", "bytes", json) as on_progress:
        done = opened.erase(name, keys=values, where=where, progress=on_progress)
    verb = "is" if done.unknown_keys == 1 else "are"
    unknown = [f"{done.unknown_keys} of the keys {verb} in no version"] if done.unknown_keys else []
    if not done.rows:
        emit(asdict(done), json, "\n".join([f"no version of {name} has such rows; nothing was changed", *unknown]))
        return
    versions = [f"erased {counted(rows, 'row')} from version {version}" for version, rows in done.rows.items()]
    copies = [f"and from the copies of {', '.join(done.vendors)}"] if done.vendors else []
    emit(asdict(done), json, "\n".join([*versions, *copies, *unknown, *_afterwards()]))


def _lines(path: Path) -> list[str]:
    """The keys in a file; one that cannot be read, or an empty line, is a mistake that is told with its line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidInput(f"{path}: the keys cannot be read ({reason})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise InvalidInput(f"{path}: line {number} is empty")
    return lines


def _numbers(versions: tuple[int, ...]) -> str:
    return ", ".join(str(version) for version in versions)


def _afterwards() -> list[str]:
    from vault.deletion import SURVIVES

    return [f"may still be had: {SURVIVES}", "'dsvault gc --grace 0s' ends the grace time now"]


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
