"""``dsvault credential``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vault_cli.opening import open_vault
from vault_cli.options import Json, UnusedVaultDir, VaultDir
from vault_cli.output import emit, table

if TYPE_CHECKING:
    from vault.trust import Credential

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


@app.command()
def issue(
    vendor: Annotated[str, typer.Argument(metavar="VENDOR")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The profile file to write.")],
    expires: Annotated[str, typer.Option("--expires", metavar="DUR", help="90s, 15m, 12h, 30d.")] = "30d",
    endpoint: Annotated[str | None, typer.Option("--endpoint", metavar="URL", help="The broker's base URL.")] = None,
    request: Annotated[
        Path | None,
        typer.Option("--request", metavar="FILE", help="Bind it to the vendor's own key, which made this request."),
    ] = None,
    bearer: Annotated[
        bool, typer.Option("--bearer", help="Bind it to no key: whoever has the file has the access.")
    ] = False,
    network: Annotated[
        list[str] | None, typer.Option("--network", metavar="CIDR", help="Only from this network; may be repeated.")
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Make a credential and write it to a profile file for the vendor.

    Each request of the vendor's is signed by a key: one that the vendor made (--request), else one made here.
    """
    from vault.encoding import duration
    from vault.errors import InvalidInput

    life = duration(expires, "--expires")
    if output.exists():
        raise InvalidInput(f"-o: {output}: the file exists already; a profile is never overwritten")
    if not output.absolute().parent.is_dir():
        raise InvalidInput(f"-o: {output}: there is no such directory")
    issued = open_vault(vault).issue_credential(
        vendor, expires=life, endpoint=endpoint, bearer=bearer, request=request, networks=network or ()
    )
    issued.save(output)
    kind = "bearer" if bearer else "key-bound"
    emit(
        {"id": issued.id, "vendor": vendor, "kind": kind, "expires": issued.profile.expires, "file": str(output)},
        json,
        f"wrote {output}: hand it to {vendor} over a safe way, and keep no copy",
    )


@app.command()
def request(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The request to send to the lab.")],
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="Where the private key goes; default: beside FILE.")
    ] = None,
    kind: Annotated[str, typer.Option("--key-type", metavar="TYPE", help="ed25519 or p256.")] = "ed25519",
    name: Annotated[str | None, typer.Option("--name", help="Who asks, for people to read.")] = None,
    vault: UnusedVaultDir = None,  # noqa: ARG001
    json: Json = False,
) -> None:
    """For a vendor: make a key of your own and a request for a credential that is bound to it.

    The key stays with you; the lab needs the request alone. Put the profile that you get beside the key.
    """
    from vault.client import new_request

    key_file = key if key is not None else output.with_name(f"{output.stem}.key.json")
    thumbprint = new_request(output, key_file, kind, name)
    emit(
        {"request": str(output), "key": str(key_file), "thumbprint": thumbprint},
        json,
        f"wrote {output}, to send to the lab, and the private key {key_file}, to keep",
    )


@app.command()
def federate(
    vendor: Annotated[str, typer.Argument(metavar="VENDOR")],
    issuer: Annotated[str, typer.Option("--issuer", metavar="URL", help="The vendor's identity provider.")],
    audience: Annotated[str, typer.Option("--audience", metavar="TEXT", help="For whom its tokens are made out.")],
    claim: Annotated[
        list[str], typer.Option("--claim", metavar="NAME=VALUE", help="What a token must have; may be repeated.")
    ],
    jwks: Annotated[
        str | None, typer.Option("--jwks", metavar="URL", help="Its keys, if its configuration does not name them.")
    ] = None,
    expires: Annotated[str, typer.Option("--expires", metavar="DUR", help="90s, 15m, 12h, 30d.")] = "30d",
    network: Annotated[
        list[str] | None, typer.Option("--network", metavar="CIDR", help="Only from this network; may be repeated.")
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Accept the tokens of a vendor's own identity provider (OpenID Connect) in the place of a credential."""
    from vault.encoding import duration
    from vault.errors import InvalidInput

    claims = {}
    for text in claim:
        name, equals, value = text.partition("=")
        if not equals or not name or name in claims:
            raise InvalidInput(f"--claim: {text[:80]!r} is not NAME=VALUE, each name once")
        claims[name] = value
    identifier = open_vault(vault).federate(
        vendor,
        issuer=issuer,
        audience=audience,
        claims=claims,
        jwks=jwks,
        expires=duration(expires, "--expires"),
        networks=network or (),
    )
    emit({"id": identifier, "vendor": vendor, "issuer": issuer}, json, f"accepting {vendor}'s tokens of {issuer}")


def _kind(credential: "Credential") -> str:
    if credential.provider is not None:
        return f"tokens of {credential.provider['issuer']}"
    return "bearer" if credential.key is None else "key-bound"


@app.command("list")
def list_(vault: VaultDir = None, json: Json = False) -> None:
    """List the credentials."""
    states = open_vault(vault).credentials()
    rows = [
        {
            "id": state.credential.id,
            "vendor": state.vendor_name,
            "kind": _kind(state.credential),
            "state": state.state,
            "expires": state.credential.expires.isoformat(timespec="seconds"),
            "networks": ", ".join(state.credential.networks),
        }
        for state in states
    ]
    headings = ("id", "vendor", "kind", "state", "expires", "networks")
    emit({"credentials": rows}, json, lambda: table(headings, [tuple(row[name] for name in headings) for row in rows]))


@app.command("revoke")
def revoke_credential(
    credential_id: Annotated[str, typer.Argument(metavar="ID")],
    vendor: Annotated[
        str | None,
        typer.Option("--delegated-by", metavar="VENDOR", help="ID is of a delegation that this vendor made."),
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """End a credential, or a delegation that a vendor made of its own."""
    if vendor is None:
        open_vault(vault).revoke_credential(credential_id)
        emit({"id": credential_id, "state": "revoked"}, json, f"revoked {credential_id}")
        return
    from vault.credentials import LOOKED_THROUGH

    seen = open_vault(vault).end_delegation(vendor, credential_id)
    told = f"revoked {credential_id}"
    if seen is None:
        told += "\nwhether a read was under it is not known: the auditor's key is not here"
    elif not seen:
        told += f"\nno read of {vendor}'s under it is in the newest {LOOKED_THROUGH:,} entries of the log; check the id"
    emit({"id": credential_id, "state": "revoked", "seen": seen}, json, told)
