"""``dsvault incident report``."""

from pathlib import Path
from typing import Annotated

import typer

from vault_cli.opening import open_vault
from vault_cli.options import Json, VaultDir
from vault_cli.output import emit, printable

__all__ = ["report"]


def report(
    vendor: Annotated[str, typer.Argument(metavar="VENDOR", help="The vendor's name; it may be offboarded.")],
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="T", help="Only what began then or later: a time in UTC, or 2h, 30d ago."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="T", help="Only what began before then: the same.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", metavar="FILE", help="Write .html, .json or .md; without it, the summary.")
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Say what a vendor was served, and could have been, from the log; needs the auditor's key."""
    from vault.incident.report import form_of

    if out is not None:
        form_of(out)
    made = open_vault(vault).incident_report(vendor, since=since, until=until)
    if out is not None:
        made.save(out)
        emit({"vendor": vendor, "file": str(out), "summary": made.summary()}, json, _told(made.summary(), out))
    else:
        emit(made.document(), json, _told(made.summary(), None))


def _told(summary: list[str], out: Path | None) -> str:
    return "\n".join([*map(printable, summary), *([f"written to {out}"] if out is not None else [])])
