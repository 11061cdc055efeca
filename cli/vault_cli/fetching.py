"""``dsvault fetch`` and ``delegate``: a vendor's own commands, which need no vault."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vault_cli.opening import split_names
from vault_cli.options import (
    BrokerAuthority,
    ClientCert,
    ClientKey,
    GrantId,
    Json,
    PrivateKey,
    ProfileFile,
    ProfileOrToken,
    UnusedVaultDir,
)
from vault_cli.output import emit, fetching, note, short, table, warn_open

if TYPE_CHECKING:
    import pyarrow as pa

    from vault.client import Client

__all__ = ["by_option", "delegate", "fetch"]

_PREVIEW_ROWS = 20
_TOKEN = re.compile("[!-~]{1,65536}")


def delegate(
    profile: ProfileFile,
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="Who gets it; the lab's log will have the name.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The profile to hand over.")],
    expires: Annotated[
        str, typer.Option("--expires", metavar="DUR", help="90s, 15m, 12h, 30d; no longer than your own access.")
    ] = "8h",
    dataset: Annotated[str | None, typer.Option("--dataset", metavar="NAME", help="Only this dataset.")] = None,
    columns: Annotated[str | None, typer.Option("--columns", metavar="a,b", help="Only these columns.")] = None,
    where: Annotated[str | None, typer.Option("--where", metavar="EXPR", help="Only these rows.")] = None,
    request: Annotated[
        Path | None, typer.Option("--request", metavar="FILE", help="Bind it to a key that the other side made.")
    ] = None,
    key: PrivateKey = None,
    vault: UnusedVaultDir = None,  # noqa: ARG001
    json: Json = False,
) -> None:
    """For a vendor: hand a part of your access on to one person, without asking the lab.

    It ends with its time, with your own access, or when the lab ends it.
    """
    from vault.client import delegate as hand_on
    from vault.encoding import duration
    from vault.wire import Profile

    made = hand_on(
        profile,
        to,
        output,
        expires=duration(expires, "--expires"),
        dataset=dataset,
        columns=split_names(columns) if columns is not None else None,
        where=where,
        request=request,
        key=key,
    )
    warn_open(profile, key)
    ends, own = (Profile.parse(path.read_bytes(), str(path)).expires for path in (output, profile))
    if ends == own:
        note(f"--expires: {output} ends at {ends}, as your own access does")
    document = {"id": made, "to": to, "expires": ends, "file": str(output)}
    emit(document, json, f"wrote {output} for {to}\ndelegation {made}")


def fetch(
    dataset: Annotated[str, typer.Argument(metavar="DATASET")],
    profile: ProfileOrToken = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="URL", help="The broker, with --token-file and no profile.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", metavar="FILE", help="A token of your own identity provider, read as it is needed."
        ),
    ] = None,
    key: PrivateKey = None,
    grant_id: GrantId = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="A .parquet, .jsonl, .csv or .arrow file.")
    ] = None,
    columns: Annotated[str | None, typer.Option("--columns", metavar="a,b", help="Only these columns.")] = None,
    where: Annotated[str | None, typer.Option("--where", metavar="EXPR", help="Only these rows.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=0, help="At most this many rows.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on where an earlier fetch to FILE was broken off.")
    ] = True,
    ca: BrokerAuthority = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
    vault: UnusedVaultDir = None,  # noqa: ARG001
    json: Json = False,
) -> None:
    """Fetch what was granted to you, with nothing but your profile: to a file, or as a preview."""
    from vault.client import fetch as to_file
    from vault.sinks import check_ending

    if output is not None:
        check_ending(output)
    names = split_names(columns) if columns is not None else None
    trust = {"ca": ca, "client_cert": client_cert, "client_key": client_key}
    found = _client(profile, key, endpoint, token_file, trust).open(dataset)
    # Of what is a profile, and not of any file that was named by mistake.
    warn_open(profile, key)
    if output is None:
        preview = _PREVIEW_ROWS if limit is None else limit
        with by_option():
            shown = found.scan(columns=names, where=where, limit=preview, grant=grant_id).read_all()
        _show(shown, json, cut=limit is None and shown.num_rows == _PREVIEW_ROWS)
        return
    with by_option(), fetching(json) as on_progress:
        done = to_file(
            found, output, names, where, limit, grant_id, resume=resume, on_progress=on_progress, on_note=note
        )
    document = {"dataset": dataset, "rows": done.rows, "resumed": done.resumed, "file": str(output)}
    emit(document, json, f"wrote {done.rows} rows to {output}")


@contextmanager
def by_option() -> Iterator[None]:
    """Name the option where the client or the broker name what it stands for."""
    from vault.errors import Conflict, InvalidInput

    try:
        yield
    except Conflict as error:
        if str(error).startswith(("more than one grant", "several grants")):
            error.args = (f"--grant: {error}",)
        raise
    except InvalidInput as error:
        if str(error).startswith(("where:", "limit:", "columns:")):
            error.args = (f"--{error}",)
        raise


def _client(
    profile: Path | None,
    key: Path | None,
    endpoint: str | None,
    token_file: Path | None,
    trust: dict[str, Any],
) -> "Client":
    """A client by profile, or by the tokens in a file."""
    from vault.client import connect, connect_with_token
    from vault.errors import InvalidInput

    if profile is not None and endpoint is None and token_file is None:
        return connect(profile, key, **trust)
    if profile is not None:
        raise typer.BadParameter("--profile names the broker and the credential: leave out --endpoint and --token-file")
    if endpoint is None and token_file is None:
        raise typer.BadParameter("give --profile, or --endpoint and --token-file")
    if endpoint is None or token_file is None:
        there, lacking = ("--token-file", "--endpoint") if endpoint is None else ("--endpoint", "--token-file")
        raise typer.BadParameter(f"{there} goes with {lacking}: give that as well")
    if key is not None:
        raise typer.BadParameter("--key goes with --profile: tokens of an identity provider are bound to no key")
    source = token_file

    def token() -> str:
        try:
            text = source.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise InvalidInput(f"--token-file: {source}: the file cannot be read ({error.strerror})") from error
        except UnicodeError:
            text = ""
        if not _TOKEN.fullmatch(text):
            raise InvalidInput(f"--token-file: {source}: the file is not one line of printable ASCII, as a token is")
        return text

    return connect_with_token(endpoint, token, **trust)


def _show(found: "pa.Table", as_json: bool, *, cut: bool) -> None:
    from vault.sinks import plain_rows, python_rows

    if as_json:
        emit({"rows": plain_rows(found)}, True, "")
    else:
        table(found.column_names, [tuple(short(cell) for cell in row.values()) for row in python_rows(found)])
    if cut:
        typer.echo(f"\nthe first {_PREVIEW_ROWS} rows; -o FILE writes all of them", err=True)
