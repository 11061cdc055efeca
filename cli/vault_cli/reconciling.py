"""``dsvault audit reconcile``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vault_cli.opening import open_vault
from vault_cli.options import Json, VaultDir
from vault_cli.output import counted, emit, note, table

if TYPE_CHECKING:
    from datetime import datetime

    from vault.reconcile import Announced, Reconciled, Unexplained

__all__ = ["reconcile"]

_RAW = "the audit device logs values in clear (log_raw): whoever reads its file has the data keys in it"


def reconcile(
    kms_log: Annotated[
        list[Path],
        typer.Option(
            "--kms-log", metavar="FILE", help="OpenBao's audit file or CloudTrail's, or a directory; may be repeated."
        ),
    ],
    since: Annotated[
        str | None, typer.Option("--from", metavar="T", help="Look from then on: a time in UTC, or 12h ago.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="T", help="Look up to then: the same.")] = None,
    skew: Annotated[str, typer.Option("--skew", metavar="DUR", help="How far the clocks may be apart.")] = "2m",
    audit_device: Annotated[
        str | None,
        typer.Option("--audit-device", metavar="NAME", help="The audit device whose hashes are in an OpenBao file."),
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Name every unwrap in the KMS's own log that no entry explains, and the reverse; needs the auditor's key."""
    from vault.encoding import asked_time, duration, utcnow
    from vault.errors import InvalidInput

    now = utcnow()
    begins = asked_time(since, "--from", now) if since is not None else None
    ends = asked_time(until, "--to", now) if until is not None else None
    if begins is not None and ends is not None and begins > ends:
        raise InvalidInput("--from, --to: the period ends before it begins")
    apart = duration(skew, "--skew")
    for path in kms_log:
        if not path.exists():
            raise InvalidInput(f"--kms-log: {path}: there is no such file")
    opened = open_vault(vault)
    found = opened.reconcile(*kms_log, since=begins, until=ends, skew=apart, audit_device=audit_device)
    emit(_document(found), json, lambda: _show(found))
    if found.told.raw:
        note(_RAW)
    if not found.ok:
        note(_sentence(found))
        raise typer.Exit(1)


def _sentence(found: "Reconciled") -> str:
    said = [f"{counted(len(found.unexplained), 'unwrap')} that no entry explains"] if found.unexplained else []
    if missing := len(found.missing) + len(found.short):
        said.append(f"{counted(missing, 'item')} of entries without an unwrap in the KMS's log")
    return "; ".join(said)


def _show(found: "Reconciled") -> None:
    told = found.told
    if found.unexplained:
        typer.echo("Unwraps that no entry explains:")
        table(
            ("time", "what", "whose", "who", "request", "at about that time"),
            [_row(each) for each in found.unexplained],
        )
    if found.in_doubt:
        typer.echo(
            f"Of these, {found.in_doubt} may be explained by entries from just beyond the file, "
            "if the KMS's clock is off: give a file that goes on for longer, or leave its ends out "
            "with --from and --to."
        )
    if found.missing:
        typer.echo("Entries without an unwrap in the KMS's log:")
        rows = [
            (each.sequence, each.time.isoformat(timespec="seconds"), each.whose, each.process) for each in found.missing
        ]
        table(("entry", "time", "whose", "process"), rows)
    if found.beyond:
        times = [each.time for each in found.beyond]
        first, last = (each.isoformat(timespec="seconds") for each in (min(times), max(times)))
        typer.echo(f"outside what the KMS's log reaches: {counted(len(found.beyond), 'item')} from {first} to {last}")
    assert told.first is not None
    assert told.last is not None
    typer.echo(
        f"KMS's log: {told.lines} lines from {told.first.isoformat(timespec='seconds')} to "
        f"{told.last.isoformat(timespec='seconds')}; {found.matched} unwraps explained, {len(found.unexplained)} not; "
        f"{found.refused} refused by the KMS; {found.foreign} of other vaults and {found.other} of no vault left out"
    )


def _row(each: "Unexplained") -> tuple[object, ...]:
    call = each.call
    who = ", ".join(f"{name}={value}" for name, value in call.who.items())
    whose = each.whose or f"the KMS key {call.key}{' itself' if call.takes_key else ', without a context of dsvault'}"
    near = f"{each.near} unwraps of this key, of which at least one is no entry's" if each.near > 1 else ""
    return call.time.isoformat(timespec="milliseconds"), call.operation, whose, who, call.id, near


def _document(found: "Reconciled") -> dict[str, Any]:
    told = found.told
    return {
        "ok": found.ok,
        "kms_log": {
            "lines": told.lines,
            "first": _time(told.first),
            "last": _time(told.last),
            "holds_plaintext_keys": told.raw,
        },
        "from": _time(found.period.since),
        "to": _time(found.period.until),
        "explained": found.matched,
        "refused": found.refused,
        "other_vaults": found.foreign,
        "no_vault": found.other,
        "unexplained": [_unexplained(each) for each in found.unexplained],
        "missing": [_announced(each) for each in found.missing],
        "in_doubt": found.in_doubt,
        "beyond": [_announced(each) for each in found.beyond],
    }


def _time(moment: "datetime | None") -> str | None:
    return moment.isoformat() if moment is not None else None


def _unexplained(each: "Unexplained") -> Mapping[str, Any]:
    call = each.call
    return {
        "time": _time(call.time),
        "operation": call.operation,
        "request": call.id,
        "kms_key": call.key,
        "who": dict(call.who),
        **_key(call.scope, each.whose),
        "unwraps_near": each.near,
    }


def _announced(each: "Announced") -> Mapping[str, Any]:
    named = _key(each.scope, each.whose)
    return {"entry": each.sequence, "time": _time(each.time), "process": each.process, **named}


def _key(scope: Any, whose: Any) -> Mapping[str, Any]:
    """A data key by its ids and in words; all null where a context is none of dsvault's."""
    return {
        "holder": whose.holder if whose is not None else None,
        "dataset": whose.dataset if whose is not None else None,
        "columns": list(whose.columns) if whose is not None else None,
        "use": whose.use if whose is not None else None,
        "compartment": scope.compartment if scope is not None else None,
        "group": scope.group if scope is not None else None,
        "epoch": scope.epoch if scope is not None else None,
    }
