"""``dsvault grant``, ``grants``, ``revoke``, ``credential`` and ``fetch``."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vault_cli.approval import told, write_request
from vault_cli.opening import open_vault, split_names
from vault_cli.options import Json, VaultDir
from vault_cli.output import emit, fetching, note, table, warn_open

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import pyarrow as pa

    from vault.approvals import Approval
    from vault.client import Client
    from vault.grants import GrantState
    from vault.trust import Credential, Grant

__all__ = ["app", "delegate", "fetch", "grant", "grants", "revoke"]

app = typer.Typer(no_args_is_help=True)
_PREVIEW_ROWS = 20
_DURATION = re.compile("[0-9]+[smhdw]")
_TOKEN = re.compile("[!-~]{1,65536}")


def grant(
    context: typer.Context,
    vendor: Annotated[str | None, typer.Argument(metavar="VENDOR", show_default=False)] = None,
    dataset: Annotated[str | None, typer.Argument(metavar="DATASET", show_default=False)] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="a,b.c", help="The columns, or fields of columns, to grant.")
    ] = None,
    where: Annotated[str | None, typer.Option("--where", metavar="EXPR", help="Only the rows that pass.")] = None,
    expires: Annotated[str | None, typer.Option("--expires", metavar="DUR", help="90s, 15m, 12h, 30d.")] = None,
    starts: Annotated[
        str | None, typer.Option("--from", metavar="T", help="When it begins: 12h from now, or 2026-12-01T08:00:00Z.")
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            "--mask", metavar="COL=FN", help="redact, null, hash, truncate:N, last:N, domain, date:UNIT, round:STEP."
        ),
    ] = None,
    max_rows: Annotated[int | None, typer.Option("--max-rows", metavar="N", help="So many rows in all.")] = None,
    max_bytes: Annotated[int | None, typer.Option("--max-bytes", metavar="N", help="So many bytes in all.")] = None,
    max_requests: Annotated[
        int | None, typer.Option("--max-requests", metavar="N", help="So many reads in all.")
    ] = None,
    rows_per_day: Annotated[int | None, typer.Option("--max-rows-per-day", metavar="N")] = None,
    bytes_per_day: Annotated[int | None, typer.Option("--max-bytes-per-day", metavar="N")] = None,
    requests_per_day: Annotated[int | None, typer.Option("--max-requests-per-day", metavar="N")] = None,
    delivery: Annotated[
        str,
        typer.Option(
            "--delivery", metavar="stream|lease", help="lease: the vendor's client has chunk keys and decrypts itself."
        ),
    ] = "stream",
    version: Annotated[
        int | None, typer.Option("--version", metavar="N", help="This version alone, and none that comes.")
    ] = None,
    purpose: Annotated[str | None, typer.Option("--purpose", metavar="TEXT", help="Shown and logged.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="On a protected dataset: the file to approve (else grant-ID.json)."
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume", metavar="GRANT-ID", help="Finish this grant, which a run that was killed left pending."
        ),
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Grant a vendor columns of a dataset, of its newest and later versions or of one.

    On a protected dataset the grant waits for approval, and its file is written for the approvers.
    """
    from vault.encoding import duration
    from vault.errors import InvalidInput

    if resume is not None:
        _refuse_more(context, {"resume", "vault", "json"})
        _tell_grant(open_vault(vault).resume_grant(resume), json)
        return
    if vendor is None or dataset is None or columns is None:
        raise typer.BadParameter("name VENDOR and DATASET, and give --columns; or --resume GRANT-ID alone")
    if output is not None and (output.exists() or not output.absolute().parent.is_dir()):
        raise InvalidInput(f"-o: {output}: the file exists already, or there is no such directory")
    life = duration(expires, "--expires") if expires is not None else None
    named = {
        "rows": max_rows,
        "bytes": max_bytes,
        "requests": max_requests,
        "rows_per_day": rows_per_day,
        "bytes_per_day": bytes_per_day,
        "requests_per_day": requests_per_day,
    }
    opened = open_vault(vault)
    made = opened.grant(
        vendor,
        dataset,
        split_names(columns),
        where=where,
        expires=life,
        purpose=purpose,
        starts=_moment(starts) if starts is not None else None,
        masks=_masks(mask or ()),
        limits={name: most for name, most in named.items() if most is not None},
        delivery=delivery,
        version=version,
    )
    approval = opened.approval(made.id)
    if not approval.missing:
        _tell_grant(made, json)
        return
    path = output or Path(f"grant-{made.id}.json")
    write_request(approval, path)
    _tell_grant(made, json, approval, path)


def _refuse_more(context: typer.Context, taken: set[str]) -> None:
    """Raise a mistake of usage where something else was given: it would be passed over without a word."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in taken and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter("--resume takes a grant's id and no other option: the grant says the rest")


def _tell_grant(made: "Grant", json: bool, approval: "Approval | None" = None, path: Path | None = None) -> None:
    """Say what was granted; with what an approver is to sign, and where it is, where the grant waits for that."""
    from vault.encoding import utcnow

    missing = approval.missing if approval is not None else 0
    scheduled = made.starts is not None and made.starts > utcnow()
    done = f"granted {made.vendor_name} {', '.join(made.column_names)} of {made.dataset_name}\ngrant {made.id}"
    emit(
        {
            "id": made.id,
            "vendor": made.vendor_name,
            "dataset": made.dataset_name,
            "columns": made.column_names,
            "where": made.where_text,
            "masks": made.shown_masks,
            "versions": made.versions,
            "limits": dict(made.limits),
            "delivery": made.delivery,
            "from": made.starts.isoformat() if made.starts else None,
            "expires": made.expires.isoformat() if made.expires else None,
            "state": "pending" if missing else "scheduled" if scheduled else "live",
            "missing": missing,
            "file": str(path) if path is not None else None,
        },
        json,
        told(approval, path) if approval is not None and path is not None else done,
    )


def _moment(text: str) -> "datetime":
    """A time from now on, as a duration or as ISO 8601 with an offset."""
    from datetime import datetime

    from vault.encoding import duration, utcnow
    from vault.errors import InvalidInput

    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        if found.tzinfo is None:
            raise InvalidInput("--from: say with the time what offset from UTC it has, such as 2026-12-01T08:00:00Z")
        return found
    if not _DURATION.fullmatch(text.strip()):
        raise InvalidInput(
            f"--from: {text[:80]!r} is neither a time such as 2026-12-01T08:00:00Z nor a duration from now such as 12h"
        )
    return utcnow() + duration(text, "--from")


def _masks(options: "Sequence[str]") -> dict[str, str]:
    from vault.errors import InvalidInput

    found: dict[str, str] = {}
    for option in options:
        name, equals, mask = option.rpartition("=")
        if not equals or not name:
            raise InvalidInput(f"--mask: {option[:80]!r} is not COLUMN=MASK, such as email=hash")
        if name in found:
            raise InvalidInput(f"--mask {name}: the column has a mask already")
        found[name] = mask
    return found


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
            ("grant", "vendor", "dataset", "state", "versions", "columns", "where", "expires"),
            [
                (
                    state.grant.id,
                    state.grant.vendor_name,
                    state.grant.dataset_name,
                    f"{state.state}, {state.missing} to sign" if state.missing else state.state,
                    state.grant.versions,
                    ", ".join(_shown_columns(state.grant)),
                    state.grant.where_text,
                    state.grant.expires.isoformat(timespec="seconds") if state.grant.expires else "never",
                )
                for state in states
            ],
        ),
    )


def _shown_columns(grant: "Grant") -> list[str]:
    """What is granted, with its masks; masks on fields of what is granted as a whole stand behind."""
    masks = grant.shown_masks
    names = [f"{name} ({masks.pop(name)})" if name in masks else name for name in grant.column_names]
    return names + [f"{name} ({mask})" for name, mask in masks.items()]


def _grant_document(state: "GrantState") -> dict[str, Any]:
    return {
        "id": state.grant.id,
        "vendor": state.grant.vendor_name,
        "dataset": state.grant.dataset_name,
        "state": state.state,
        "missing": state.missing,
        "columns": state.grant.column_names,
        "where": state.grant.where_text,
        "masks": state.grant.shown_masks,
        "versions": state.grant.versions,
        "limits": dict(state.grant.limits),
        "used": {"total": dict(state.used.total), "today": dict(state.used.today)} if state.grant.limits else None,
        "purpose": state.grant.purpose,
        "delivery": state.grant.delivery,
        "from": state.grant.starts.isoformat() if state.grant.starts else None,
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
    request: Annotated[
        Path | None,
        typer.Option("--request", metavar="FILE", help="Bind it to the vendor's own key, which made this request."),
    ] = None,
    bearer: Annotated[
        bool, typer.Option("--bearer", help="Bind it to no key: whoever has the file has the access.")
    ] = False,
    network: Annotated[
        list[str] | None, typer.Option("--network", metavar="CIDR", help="Only from this network; may be repeated.")
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Make a credential and write it to a profile file for the vendor.

    Each request of the vendor's is signed by a key: one that the vendor made (--request), else one made here.
    """
    from vault.encoding import duration
    from vault.errors import InvalidInput

    life = duration(expires, "--expires")
    if output.exists():
        raise InvalidInput(f"-o: {output}: the file exists already; a profile is never overwritten")
    if not output.absolute().parent.is_dir():
        raise InvalidInput(f"-o: {output}: there is no such directory")
    issued = open_vault(vault).issue_credential(
        vendor, expires=life, endpoint=endpoint, bearer=bearer, request=request, networks=network or ()
    )
    issued.save(output)
    kind = "bearer" if bearer else "key-bound"
    emit(
        {"id": issued.id, "vendor": vendor, "kind": kind, "expires": issued.profile.expires, "file": str(output)},
        json,
        f"wrote {output}: hand it to {vendor} over a safe way, and keep no copy",
    )


@app.command()
def request(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The request to send to the lab.")],
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="Where the private key goes; default: beside FILE.")
    ] = None,
    kind: Annotated[str, typer.Option("--key-type", metavar="TYPE", help="ed25519 or p256.")] = "ed25519",
    name: Annotated[str | None, typer.Option("--name", help="Who asks, for people to read.")] = None,
    vault: VaultDir = None,  # noqa: ARG001
    json: Json = False,
) -> None:
    """For a vendor: make a key of your own and a request for a credential that is bound to it.

    The key stays with you; the lab needs the request alone. Put the profile that you get beside the key.
    """
    from vault.client import new_request

    key_file = key if key is not None else output.with_name(f"{output.stem}.key.json")
    thumbprint = new_request(output, key_file, kind, name)
    emit(
        {"request": str(output), "key": str(key_file), "thumbprint": thumbprint},
        json,
        f"wrote {output}, to send to the lab, and the private key {key_file}, to keep",
    )


def _kind(credential: "Credential") -> str:
    if credential.provider is not None:
        return f"tokens of {credential.provider['issuer']}"
    return "bearer" if credential.key is None else "key-bound"


@app.command()
def federate(
    vendor: Annotated[str, typer.Argument(metavar="VENDOR")],
    issuer: Annotated[str, typer.Option("--issuer", metavar="URL", help="The vendor's identity provider.")],
    audience: Annotated[str, typer.Option("--audience", metavar="TEXT", help="For whom its tokens are made out.")],
    claim: Annotated[
        list[str], typer.Option("--claim", metavar="NAME=VALUE", help="What a token must have; may be repeated.")
    ],
    jwks: Annotated[
        str | None, typer.Option("--jwks", metavar="URL", help="Its keys, if its configuration does not name them.")
    ] = None,
    expires: Annotated[str, typer.Option("--expires", metavar="DUR", help="90s, 15m, 12h, 30d.")] = "30d",
    network: Annotated[
        list[str] | None, typer.Option("--network", metavar="CIDR", help="Only from this network; may be repeated.")
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Accept the tokens of a vendor's own identity provider (OpenID Connect) in the place of a credential."""
    from vault.encoding import duration
    from vault.errors import InvalidInput

    claims = {}
    for text in claim:
        name, equals, value = text.partition("=")
        if not equals or not name or name in claims:
            raise InvalidInput(f"--claim: {text[:80]!r} is not NAME=VALUE, each name once")
        claims[name] = value
    identifier = open_vault(vault).federate(
        vendor,
        issuer=issuer,
        audience=audience,
        claims=claims,
        jwks=jwks,
        expires=duration(expires, "--expires"),
        networks=network or (),
    )
    emit({"id": identifier, "vendor": vendor, "issuer": issuer}, json, f"accepting {vendor}'s tokens of {issuer}")


@app.command("list")
def list_(vault: VaultDir = None, json: Json = False) -> None:
    """List the credentials."""
    states = open_vault(vault).credentials()
    rows = [
        {
            "id": state.credential.id,
            "vendor": state.vendor_name,
            "kind": _kind(state.credential),
            "state": state.state,
            "expires": state.credential.expires.isoformat(timespec="seconds"),
            "networks": ", ".join(state.credential.networks),
        }
        for state in states
    ]
    headings = ("id", "vendor", "kind", "state", "expires", "networks")
    emit({"credentials": rows}, json, lambda: table(headings, [tuple(row[name] for name in headings) for row in rows]))


def delegate(
    profile: Annotated[Path, typer.Option("--profile", metavar="FILE", help="Your profile file.")],
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="Who gets it; the lab's log will have the name.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The profile to hand over.")],
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="DUR", help="90s, 15m, 12h, 30d; default: 8h, or as long as your own lasts."),
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", metavar="NAME", help="Only this dataset.")] = None,
    columns: Annotated[str | None, typer.Option("--columns", metavar="a,b", help="Only these columns.")] = None,
    where: Annotated[str | None, typer.Option("--where", metavar="EXPR", help="Only these rows.")] = None,
    request: Annotated[
        Path | None, typer.Option("--request", metavar="FILE", help="Bind it to a key that the other side made.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="Your private key, if it is not beside the profile.")
    ] = None,
    vault: VaultDir = None,  # noqa: ARG001
    json: Json = False,
) -> None:
    """For a vendor: hand a part of your access on to one person, without asking the lab.

    It ends with its time, with your own access, or when the lab ends it.
    """
    from vault.client import delegate as hand_on
    from vault.encoding import duration

    warn_open(profile, key)
    made = hand_on(
        profile,
        to,
        output,
        expires=duration(expires, "--expires") if expires is not None else None,
        dataset=dataset,
        columns=split_names(columns) if columns is not None else None,
        where=where,
        request=request,
        key=key,
    )
    emit({"id": made, "to": to, "file": str(output)}, json, f"wrote {output} for {to}\ndelegation {made}")


@app.command("revoke")
def revoke_credential(
    credential_id: Annotated[str, typer.Argument(metavar="ID")],
    vendor: Annotated[
        str | None,
        typer.Option("--delegated-by", metavar="VENDOR", help="ID is of a delegation that this vendor made."),
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """End a credential, or a delegation that a vendor made of its own."""
    if vendor is None:
        open_vault(vault).revoke_credential(credential_id)
        emit({"id": credential_id, "state": "revoked"}, json, f"revoked {credential_id}")
        return
    seen = open_vault(vault).end_delegation(vendor, credential_id)
    told = f"revoked {credential_id}"
    if seen is None:
        told += "\nwhether a read was under it is not known: the auditor's key is not here"
    elif not seen:
        told += f"\nno read of {vendor}'s under it is in the log; check the id and the vendor"
    emit({"id": credential_id, "state": "revoked", "seen": seen}, json, told)


def fetch(
    dataset: Annotated[str, typer.Argument(metavar="DATASET")],
    profile: Annotated[Path | None, typer.Option("--profile", metavar="FILE", help="Your profile file.")] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="URL", help="The broker, with --token-file and no profile.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", metavar="FILE", help="A token of your own identity provider, read as it is needed."
        ),
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="Your private key, if it is not beside the profile.")
    ] = None,
    grant_id: Annotated[str | None, typer.Option("--grant", metavar="ID", help="The grant to read under.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="A .parquet, .jsonl, .csv or .arrow file.")
    ] = None,
    columns: Annotated[str | None, typer.Option("--columns", metavar="a,b", help="Only these columns.")] = None,
    where: Annotated[str | None, typer.Option("--where", metavar="EXPR", help="Only these rows.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=0, help="At most this many rows.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on where an earlier fetch to FILE was broken off.")
    ] = True,
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="F", help="The authority of the broker's certificate, PEM.")
    ] = None,
    client_cert: Annotated[
        Path | None, typer.Option("--client-cert", metavar="F", help="Your certificate, if the broker asks for one.")
    ] = None,
    client_key: Annotated[Path | None, typer.Option("--client-key", metavar="F", help="Its private key, PEM.")] = None,
    vault: VaultDir = None,  # noqa: ARG001
    json: Json = False,
) -> None:
    """Fetch what was granted to you, with nothing but your profile: to a file, or as a preview."""
    from vault.client import fetch as to_file
    from vault.sinks import check_ending

    warn_open(profile, key)

    if output is not None:
        check_ending(output)
    names = split_names(columns) if columns is not None else None
    trust = {"ca": ca, "client_cert": client_cert, "client_key": client_key}
    found = _client(profile, key, endpoint, token_file, trust).open(dataset)
    if output is None:
        preview = _PREVIEW_ROWS if limit is None else limit
        with _by_option():
            shown = found.scan(columns=names, where=where, limit=preview, grant=grant_id).read_all()
        _show(shown, json, cut=limit is None and shown.num_rows == _PREVIEW_ROWS)
        return
    with _by_option(), fetching(json) as on_progress:
        done = to_file(
            found, output, names, where, limit, grant_id, resume=resume, on_progress=on_progress, on_note=note
        )
    document = {"dataset": dataset, "rows": done.rows, "resumed": done.resumed, "file": str(output)}
    emit(document, json, f"wrote {done.rows} rows to {output}")


@contextmanager
def _by_option() -> Iterator[None]:
    """Name the option where the client or the broker name what it stands for."""
    from vault.errors import InvalidInput

    try:
        yield
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
    if profile is not None or endpoint is None or token_file is None or key is not None:
        raise typer.BadParameter("give --profile, or --endpoint and --token-file")
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
    from vault.sinks import plain_rows

    if as_json:
        emit({"rows": plain_rows(found)}, True, "")
    else:
        table(found.column_names, [tuple(_short(cell) for cell in row.values()) for row in found.to_pylist()])
    if cut:
        typer.echo(f"\nthe first {_PREVIEW_ROWS} rows; -o FILE writes all of them", err=True)


def _short(cell: object) -> str:
    text = " ".join(str(cell).split()) if cell is not None else ""
    return text if len(text) <= 60 else text[:59] + "…"
