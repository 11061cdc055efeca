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
    metrics_to: Annotated[
        list[str] | None,
        typer.Option("--metrics-to", metavar="CIDR", help="Who may read /metrics; default: this machine."),
    ] = None,
    log_level: Annotated[
        str, typer.Option("--log-level", help="info, warning or error; info tells each request.")
    ] = "warning",
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", metavar="F", help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="F", help="Its private key, PEM.")] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Run the broker. It reads the vault's broker/ directory only, and needs no owner key."""
    from vault import access, deployment
    from vault.broker import LOOPBACK, ServeOptions, create_app
    from vault.broker import serve as run_server
    from vault.encoding import duration
    from vault.networks import check_networks
    from vault_cli.opening import split_names

    folder = deployment.find_vault(str(vault) if vault is not None else None)
    age = duration(key_age, "--key-age") if key_age is not None else None
    parts, _ = deployment.open_broker(folder, key_age=age)
    served = access.vendor_ids(parts, frozenset(split_names(vendors))) if vendors is not None else None
    options = ServeOptions(host, port, str(tls_cert) if tls_cert else None, str(tls_key) if tls_key else None)

    def ready(url: str) -> None:
        emit({"endpoint": url}, json, f"serving on {url}")
        sys.stdout.flush()

    readers = check_networks(metrics_to, "--metrics-to") if metrics_to else LOOPBACK
    app = create_app(parts, served, deployment.broker_endpoints(folder, endpoint or ()), readers)
    _log_to_stderr(log_level)
    run_server(app, options, ready)


def _log_to_stderr(level: str) -> None:
    """The broker's own log, as JSON lines on stderr."""
    import logging

    from vault.broker.logs import JsonFormatter
    from vault.errors import InvalidInput

    if level not in {"info", "warning", "error"}:
        raise InvalidInput("--log-level: use info, warning or error")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("dsvault")
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False
