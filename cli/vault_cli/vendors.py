"""``dsvault vendor``."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from vault_cli.opening import open_vault
from vault_cli.options import Json, VaultDir
from vault_cli.output import emit, table

if TYPE_CHECKING:
    from vault.offboard import Offboarded
    from vault.vendors import VendorState

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The vendor's name.")]


@app.command()
def add(name: Name, vault: VaultDir = None, json: Json = False) -> None:
    """Add a vendor, with a KMS key of its own."""
    identifier = open_vault(vault).add_vendor(name)
    emit({"vendor": name, "id": identifier}, json, f"added {name}")


@app.command("list")
def list_(vault: VaultDir = None, json: Json = False) -> None:
    """List the vendors."""
    states = open_vault(vault).vendors()
    emit(
        {"vendors": [asdict(state) for state in states]},
        json,
        lambda: table(
            ("vendor", "state", "grants", "credentials", "added"),
            [
                (
                    state.name,
                    _standing(state),
                    state.grants,
                    state.credentials,
                    state.created[:19],
                )
                for state in states
            ],
        ),
    )


@app.command()
def freeze(name: Name, vault: VaultDir = None, json: Json = False) -> None:
    """Stop everything of a vendor within a second; nothing is deleted."""
    changed = open_vault(vault, urgent=True).freeze(name)
    told = f"froze {name}; 'dsvault vendor thaw {name}' undoes it" if changed else f"{name} was frozen already"
    emit({"vendor": name, "frozen": True, "changed": changed}, json, told)


@app.command()
def thaw(name: Name, vault: VaultDir = None, json: Json = False) -> None:
    """Let a frozen vendor read again."""
    changed = open_vault(vault).thaw(name)
    told = f"thawed {name}" if changed else f"{name} was not frozen"
    emit({"vendor": name, "frozen": False, "changed": changed}, json, told)


@app.command()
def offboard(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; this cannot be undone.")] = False,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """End a vendor for good: its access, its KMS key, its wrapped keys. This cannot be undone."""
    from vault.errors import NotFound

    opened = open_vault(vault)
    if not any(state.name == name for state in opened.vendors()):
        raise NotFound(f"there is no vendor named '{name[:80]}'")
    if not yes and not typer.confirm(f"destroy the KMS key of {name}? This cannot be undone", err=True):
        raise typer.Exit(1)
    done = opened.offboard(name)
    emit({**asdict(done), "state": "offboarded"}, json, lambda: _told(done.vendor, done.destruction, done))


def _told(name: str, destruction: str, done: "Offboarded") -> None:
    if not done.changed:
        typer.echo(f"{name} was offboarded already")
        return
    typer.echo(
        f"""offboarded {name}
gone at once:     {_count(done.grants, "grant")}, {_count(done.credentials, "credential")}, every request and stream,
                  and {_count(done.keys, "wrapped data key")} in the catalog
the KMS key:      {destruction}
gone with gc:     its encrypted objects; run 'dsvault gc'
may still be had: what {name} was served; copies of ciphertext (object versions, backups of the store), which nothing
                  opens once the KMS key is gone; backups of the catalog, whose wrapped keys open under it only
untouched:        the owner's data, other vendors' data, and the audit log"""
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _standing(state: "VendorState") -> str:
    if state.ended or state.ending:
        return "offboarded" if state.ended else "being offboarded"
    return "frozen" if state.frozen else "active"
