"""``dsvault grant``, ``grants`` and ``revoke``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vault_cli.approval import told, write_request
from vault_cli.opening import open_vault, split_names
from vault_cli.options import Engine, Json, RayAddress, VaultDir
from vault_cli.output import emit, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vault.approvals import Approval
    from vault.holdings import GrantState
    from vault.trust import Grant

__all__ = ["grant", "grants", "revoke"]


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
        str | None, typer.Option("--from", metavar="T", help="When it begins: 12h from now, or a time in UTC.")
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
    engine: Engine = "local",
    ray_address: RayAddress = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Grant a vendor columns of a dataset, of its newest and later versions or of one.

    On a protected dataset the grant waits for approval, and its file is written for the approvers.
    """
    from vault.encoding import asked_time, duration, utcnow
    from vault.errors import InvalidInput

    if resume is not None:
        _refuse_more(context, {"resume", "engine", "ray_address", "vault", "json"})
        _tell_grant(open_vault(vault, engine, ray_address).resume_grant(resume), json)
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
    opened = open_vault(vault, engine, ray_address)
    made = opened.grant(
        vendor,
        dataset,
        split_names(columns),
        where=where,
        expires=life,
        purpose=purpose,
        starts=asked_time(starts, "--from", utcnow(), ahead=True) if starts is not None else None,
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
