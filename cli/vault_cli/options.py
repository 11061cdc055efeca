"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Json", "VaultDir"]

VaultDir = Annotated[
    Path | None,
    typer.Option("--vault", metavar="DIR", help="The vault (else $DSVAULT, else the nearest upwards)."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else.")]
