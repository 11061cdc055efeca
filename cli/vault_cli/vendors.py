"""``dsvault vendor``."""

from dataclasses import asdict
from typing import Annotated

import typer

from vault_cli.opening import open_vault
from vault_cli.options import Json, VaultDir
from vault_cli.output import emit, table

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
                    _standing(state.frozen),
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
    changed = open_vault(vault).freeze(name)
    told = f"froze {name}; 'dsvault vendor thaw {name}' undoes it" if changed else f"{name} was frozen already"
    emit({"vendor": name, "frozen": True, "changed": changed}, json, told)


@app.command()
def thaw(name: Name, vault: VaultDir = None, json: Json = False) -> None:
    """Let a frozen vendor read again."""
    changed = open_vault(vault).thaw(name)
    told = f"thawed {name}" if changed else f"{name} was not frozen"
    emit({"vendor": name, "frozen": False, "changed": changed}, json, told)


def _standing(frozen: bool) -> str:
    return "frozen" if frozen else "active"
