"""``dsvault rotate``, ``check`` and ``gc``."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from vault_cli.opening import open_vault, split_names
from vault_cli.options import Engine, Json, RayAddress, VaultDir
from vault_cli.output import emit, progress, table

__all__ = ["app", "check", "gc"]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _rotate() -> None:
    """Rotate keys."""


@app.command()
def rekey(
    vendor: Annotated[str | None, typer.Option("--vendor", metavar="V", help="Only this vendor.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", metavar="D", help="Only this dataset's.")] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="a,b", help="Only these columns of the dataset.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be encrypted anew, and change nothing.")] = False,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Encrypt compartments anew under fresh keys; the old keys open nothing that is live.

    A run that was stopped is taken up by the same command, within gc's grace time.
    """
    opened = open_vault(vault, engine, ray_address)
    names = split_names(columns) if columns is not None else None
    if plan:
        planned, failures = _whatever_was_done(lambda: opened.plan_rekey(vendor, dataset, names))
        shown = [(item.vendor, item.dataset, item.chunks, item.bytes) for item in planned]
        document = {"planned": [asdict(item) for item in planned], "failures": failures}
        emit(document, json, lambda: table(("holder", "dataset", "chunks", "bytes"), shown))
        _end_partly_done(failures)
        return
    with progress("rekeying", "bytes", json) as on_progress:
        done, failures = _whatever_was_done(lambda: opened.rekey(vendor, dataset, names, on_progress))
    rows = [(item.vendor, item.dataset, item.chunks, item.bytes, item.resumed) for item in done]
    emit(
        {"rekeyed": [asdict(item) for item in done], "failures": failures},
        json,
        lambda: table(("holder", "dataset", "chunks", "bytes", "chunks done before"), rows),
    )
    _end_partly_done(failures)


@app.command()
def rewrap(
    vendor: Annotated[str | None, typer.Option("--vendor", metavar="V", help="Only this vendor's (or owner).")] = None,
    prepare: Annotated[
        bool,
        typer.Option("--prepare", help="Make the new KMS keys and move nothing yet, so that policies can name them."),
    ] = False,
    disable_old: Annotated[bool, typer.Option("--disable-old", help="Disable the old KMS keys in the end.")] = False,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Wrap data keys anew under new KMS keys; no object is read, and brokers go on serving."""
    opened = open_vault(vault)
    with progress("rewrapping", "keys", json) as on_progress:
        done, failures = _whatever_was_done(
            lambda: opened.rewrap(vendor, prepare=prepare, disable_old=disable_old, progress=on_progress)
        )
    emit(
        {"rewrapped": [asdict(item) for item in done], "failures": failures},
        json,
        lambda: table(
            ("holder", "data keys", "from KMS key", "to KMS key"),
            [(item.vendor, item.keys, item.old, item.new) for item in done],
        ),
    )
    _end_partly_done(failures)


@app.command("submission-key")
def submission_key(vault: VaultDir = None, json: Json = False) -> None:
    """Make a new key for vendors to seal what they send back to; profiles that are issued from now on have it.

    The one before is kept for what is sealed to it.
    """
    before, after = open_vault(vault).rotate_submission_key()
    emit({"before": before, "key": after}, json, f"made the submission key {after}")


def _whatever_was_done(act: Callable[[], Sequence[Any]]) -> tuple[Sequence[Any], Sequence[str]]:
    """The results of an act on several vendors, and in sentences what failed: both are told."""
    from vault.errors import PartlyDone

    try:
        return act(), ()
    except PartlyDone as error:
        return error.done, error.failures


def _end_partly_done(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        typer.echo(f"dsvault: {sentence}", err=True)
    if sentences:
        raise typer.Exit(1)


def check(
    epochs: Annotated[
        bool, typer.Option("--epochs", help="Of each chunk read the end only: which keys open it, and which do not.")
    ] = False,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Check the log, every head, manifest and chunk: there, whole, and under its live epoch only."""
    opened = open_vault(vault)
    with progress("checking", "bytes", json) as on_progress:
        report = opened.check(lambda done: on_progress(done, None), epochs=epochs)
    document = {
        "ok": report.ok,
        "chunks": report.chunks,
        "retired_keys_tried": report.retired_tries,
        "bytes": report.bytes,
        "log_entries": report.log_entries,
        "faults": report.faults,
        "not_checked": report.not_checked,
        "objects_in_doubt": report.in_doubt,
        "removable_objects": len(report.garbage),
        "removable_bytes": report.garbage_bytes,
        "objects_of_running_jobs": report.busy,
        "submissions": report.submissions,
    }

    def human() -> None:
        typer.echo(f"{report.chunks} chunks, {report.bytes} bytes, {report.log_entries} log entries")
        if not report.faults:
            tried = f"none under a retired one ({report.retired_tries} tries)"
            typer.echo(f"every chunk that was checked opens under its live epoch, and {tried}")
        typer.echo(f"gc may remove {len(report.garbage)} objects, {report.garbage_bytes} bytes")
        if report.submissions:
            typer.echo(f"{report.submissions} submissions wait to be looked at")
        if report.busy:
            typer.echo(f"{report.busy} objects belong to jobs that run, or were killed less than gc's grace time ago")
        if report.in_doubt:
            typer.echo(f"{report.in_doubt} objects may be in use by whoever was not checked, or be left over")
        for fault in report.faults:
            typer.echo(f"FAULT: {fault}")
        for reason in report.not_checked:
            typer.echo(f"NOT CHECKED: {reason}")

    emit(document, json, human)
    if not report.ok:
        unchecked = f", and {len(report.not_checked)} vendors were not checked" if report.not_checked else ""
        typer.echo(f"dsvault: {len(report.faults)} faults were found{unchecked}", err=True)
        raise typer.Exit(1)


def gc(
    grace: Annotated[
        str | None,
        typer.Option("--grace", metavar="DUR", help="Leave what was superseded since (default: as set, or 1h)."),
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Remove what nothing needs any more."""
    from vault.encoding import duration

    done = open_vault(vault).gc(duration(grace, "--grace") if grace is not None else None)
    emit(
        asdict(done),
        json,
        f"removed {done.objects} objects ({done.bytes} bytes), {done.manifests} old manifests and {done.keys} old keys",
    )
    _end_partly_done([f"objects were kept that may be in use: {reason}" for reason in done.left])
