"""``dsvault upgrade`` and ``dsvault catalog``."""

from dataclasses import asdict
from typing import Annotated

import typer

from vault_cli.opening import open_vault, split_names
from vault_cli.options import Json, VaultDir
from vault_cli.output import emit

__all__ = ["app", "upgrade"]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _catalog() -> None:
    """The catalog."""


@app.command()
def roles(
    broker: Annotated[
        list[str] | None,
        typer.Option("--broker", metavar="ROLE=a,b", help="A further role, of brokers of these vendors only."),
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Print the SQL that gives owner, responder, brokers and auditor a PostgreSQL role each, with what it needs.

    The owner of the tables runs it, again after an upgrade. Nothing is run here.
    """
    from vault.errors import InvalidInput

    named: dict[str, list[str]] = {}
    for each in broker or ():
        role, separator, vendors = each.partition("=")
        if not separator or role in named:
            raise InvalidInput(f"--broker: {each[:80]!r}: give ROLE=a,b, and each role once")
        named[role] = split_names(vendors, "--broker")
    found = open_vault(vault).catalog_roles(named)
    emit({"sql": found}, json, found.rstrip("\n"))


def upgrade(vault: VaultDir = None, json: Json = False) -> None:
    """Bring the catalog of a vault that an older release made to this release's schema.

    It may be killed and run again. Processes of the older release that still run refuse everything from then on.
    """
    from vault import owner

    done = owner.upgrade(vault)
    if done.before == done.after:
        said = f"the catalog has schema {done.after} already"
    else:
        said = f"upgraded the catalog from schema {done.before} to {done.after}"
    emit(asdict(done), json, said)
