"""Options that several commands share, of the lab's and of a vendor's."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "BrokerAuthority",
    "ClientCert",
    "ClientKey",
    "Engine",
    "GrantId",
    "Json",
    "PrivateKey",
    "ProfileFile",
    "ProfileOrToken",
    "RayAddress",
    "UnusedVaultDir",
    "VaultDir",
]

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

# A vendor's: who it is, and how its broker is reached.
_PROFILE = typer.Option("--profile", metavar="FILE", help="Your profile file.")
ProfileFile = Annotated[Path, _PROFILE]
#: Of commands that also take a token.
ProfileOrToken = Annotated[Path | None, _PROFILE]
PrivateKey = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="Your private key, if it is not beside the profile.")
]
GrantId = Annotated[str | None, typer.Option("--grant", metavar="ID", help="The grant that it is under.")]
BrokerAuthority = Annotated[
    Path | None, typer.Option("--ca", metavar="F", help="The authority of the broker's certificate, PEM.")
]
ClientCert = Annotated[
    Path | None, typer.Option("--client-cert", metavar="F", help="Your certificate, if the broker asks for one.")
]
ClientKey = Annotated[Path | None, typer.Option("--client-key", metavar="F", help="Its private key, PEM.")]
