"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Engine", "Json", "RayAddress", "UnusedVaultDir", "VaultDir"]

VaultDir = Annotated[
    Path | None,
    typer.Option("--vault", metavar="DIR", help="The vault (else $DSVAULT, else the nearest upwards)."),
]
#: Every command takes the option; where it says nothing, as to a vendor, the help is silent about it.
UnusedVaultDir = Annotated[Path | None, typer.Option("--vault", metavar="DIR", hidden=True)]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else.")]
Engine = Annotated[
    str, typer.Option("--engine", metavar="local|ray", help="Where the work is done: here, or on a Ray cluster.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address", metavar="ADDR", help="The Ray cluster to use (default: one that is started on this machine)."
    ),
]
