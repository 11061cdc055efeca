"""``dsvault serve``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from vault_cli.options import Json, VaultDir
from vault_cli.output import emit

__all__ = ["serve"]


def serve(
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 takes a free one.")] = 8750,
    vendors: Annotated[str | None, typer.Option("--vendors", metavar="a,b", help="Serve these vendors only.")] = None,
    key_age: Annotated[
        str | None, typer.Option("--key-age", metavar="DUR", help="Hold unwrapped data keys for 0s to 60s.")
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option("--endpoint", metavar="URL", help="A base URL that clients reach it by, if not its own address."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", metavar="F", help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="F", help="Its private key, PEM.")] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Run the broker. It reads the vault's broker/ directory only, and needs no owner key."""
    from vault import access, deployment
    from vault.broker import ServeOptions, create_app
    from vault.broker import serve as run_server
    from vault.encoding import duration
    from vault_cli.opening import split_names

    folder = deployment.find_vault(str(vault) if vault is not None else None)
    age = duration(key_age, "--key-age") if key_age is not None else None
    parts, _ = deployment.open_broker(folder, key_age=age)
    served = access.vendor_ids(parts, frozenset(split_names(vendors))) if vendors is not None else None
    options = ServeOptions(host, port, str(tls_cert) if tls_cert else None, str(tls_key) if tls_key else None)

    def ready(url: str) -> None:
        emit({"endpoint": url}, json, f"serving on {url}")
        sys.stdout.flush()

    run_server(create_app(parts, served, deployment.broker_endpoints(folder, endpoint or ())), options, ready)
