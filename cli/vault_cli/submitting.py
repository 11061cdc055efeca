"""``dsvault submit``, a vendor's own, and ``dsvault submissions``: what comes back, on both sides."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vault_cli.fetching import by_option
from vault_cli.opening import open_vault
from vault_cli.options import (
    BrokerAuthority,
    ClientCert,
    ClientKey,
    GrantId,
    Json,
    PrivateKey,
    ProfileFile,
    UnusedVaultDir,
    VaultDir,
)
from vault_cli.output import counted, emit, printable, short, table, warn_open

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from vault.submissions import SubmissionState

__all__ = ["app", "submit"]

_PREVIEW_ROWS = 20
app = typer.Typer(no_args_is_help=True)
Id = Annotated[str, typer.Argument(metavar="ID", help="The submission's id.")]
Whose = Annotated[str | None, typer.Option("--vendor", metavar="V", help="Whose, where another has the same id.")]


@app.callback()
def _submissions() -> None:
    """What vendors sent back."""


def submit(
    dataset: Annotated[str, typer.Argument(metavar="DATASET")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .parquet, .jsonl, .json, .csv or .arrow file.")],
    profile: ProfileFile,
    grant_id: GrantId = None,
    key: PrivateKey = None,
    row_key: Annotated[
        str | None,
        typer.Option(
            "--row-key", metavar="COLUMN", help="The column that identifies rows, if the broker does not say."
        ),
    ] = None,
    ca: BrokerAuthority = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
    vault: UnusedVaultDir = None,  # noqa: ARG001
    json: Json = False,
) -> None:
    """For a vendor: send columns back for rows that were granted to you, which the lab alone can read."""
    from vault.client import connect

    found = connect(profile, key, ca=ca, client_cert=client_cert, client_key=client_key).open(dataset)
    warn_open(profile, key)
    rows = _read(file)
    with by_option(), _by_file(file):
        done = found.submit(rows, grant_id, row_key=row_key)
    emit({"dataset": dataset, **asdict(done)}, json, f"sent {done.rows} rows\nsubmission {done.id}")


def _read(file: str) -> "pa.Table":
    import pyarrow as pa

    from vault.sources import open_source

    with open_source(file) as source:
        return pa.Table.from_batches(list(source.batches()), source.schema)


class _by_file:  # noqa: N801
    """Name the file where the client names what is in it."""

    def __init__(self, file: str) -> None:
        self._file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from vault.errors import InvalidInput

        if isinstance(error, InvalidInput):
            text = str(error)
            if text.startswith("row_key:"):
                error.args = (f"--row-key{text.removeprefix('row_key')}",)
            elif text.startswith(("row ", "the column ", "the table")):
                error.args = (f"{self._file}: {text}",)


@app.command("list")
def list_(
    vendor: Annotated[str | None, typer.Option("--vendor", metavar="V", help="Only this vendor's.")] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """List what vendors sent back."""
    states = open_vault(vault).submissions(vendor)
    emit(
        {"submissions": [asdict(state) for state in states]},
        json,
        lambda: table(
            ("submission", "vendor", "dataset", "rows", "bytes", "received", "state"),
            [
                (each.id, each.vendor, each.dataset, each.rows, each.size, each.received[:19], _shown(each))
                for each in states
            ],
        ),
    )


def _shown(state: "SubmissionState") -> str:
    shown = f"{state.state} as version {state.version}" if state.version is not None else state.state
    return f"{shown}; in doubt: {state.doubt}" if state.doubt is not None else shown


@app.command()
def show(identity: Id, vendor: Whose = None, vault: VaultDir = None, json: Json = False) -> None:
    """Open a submission, say whether it could be accepted, and show its first rows. Nothing is taken over."""
    from vault.sinks import plain_rows, python_rows, representable

    detail = open_vault(vault).submission(identity, vendor)
    first = representable(detail.table.slice(0, _PREVIEW_ROWS))
    columns = [{"name": field.name, "type": str(field.type)} for field in detail.table.schema]
    document: dict[str, Any] = {
        **asdict(detail.state),
        "key": detail.key,
        "columns": columns,
        "delegates": list(detail.delegates),
        "problem": detail.problem,
    }
    if json:
        emit({**document, "first_rows": plain_rows(first)}, True, "")
        return
    state = detail.state
    typer.echo(printable(f"{state.rows} rows of {state.vendor} for {state.dataset}, {state.state}"))
    for name in detail.delegates:
        typer.echo(printable(f"by delegation to {name}"))
    typer.echo(printable(detail.problem) if detail.problem is not None else "nothing keeps it from being accepted")
    table(first.column_names, [tuple(short(cell) for cell in row.values()) for row in python_rows(first)])


@app.command()
def accept(
    identity: Id,
    rename: Annotated[
        list[str] | None, typer.Option("--rename", metavar="OLD=NEW", help="Give a column another name; repeatable.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Fill the rows that columns of earlier submissions have no value for.")
    ] = False,
    vendor: Whose = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Check a submission, and make its columns those of a new version. No vendor is granted them."""
    done = open_vault(vault).accept_submission(identity, _renamed(rename or ()), merge=merge, vendor=vendor)
    gone = f", {done.gone} rows are gone from the dataset" if done.gone else ""
    kept = f", {done.kept} values were there already" if done.kept else ""
    columns = ", ".join(done.columns)
    emit(
        asdict(done),
        json,
        printable(f"accepted {done.rows} rows as {columns} of {done.dataset} version {done.version}{gone}{kept}"),
    )


def _renamed(options: "Sequence[str]") -> dict[str, str]:
    from vault.errors import InvalidInput

    found: dict[str, str] = {}
    for option in options:
        old, equals, new = option.partition("=")
        if not equals or not old or not new:
            raise InvalidInput(f"--rename: {option[:80]!r} is not OLD=NEW")
        if old in found:
            raise InvalidInput(f"--rename {old[:80]}: the column has another name already")
        found[old] = new
    return found


@app.command()
def reject(
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; the log keeps it.")],
    identity: Annotated[str | None, typer.Argument(metavar="[ID]", help="The submission's id.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that waits of the vendor of --vendor.")] = False,
    vendor: Whose = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Refuse a submission, or all that waits of a vendor; gc removes them. The vendor is told nothing."""
    if every == (identity is not None):
        raise typer.BadParameter("give the ID of a submission, or --all with --vendor")
    if identity is not None:
        state = open_vault(vault).reject_submission(identity, reason, vendor)
        emit(asdict(state), json, f"rejected {state.id}")
        return
    if vendor is None:
        raise typer.BadParameter("--all goes with --vendor: it rejects what waits of one vendor")
    states = open_vault(vault).reject_submissions(vendor, reason)
    told = f"rejected {counted(len(states), 'submission')} of {vendor}"
    emit({"submissions": [asdict(state) for state in states]}, json, told)
