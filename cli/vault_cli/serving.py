"""``dsvault serve``."""

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vault_cli.options import Json, VaultDir
from vault_cli.output import emit

if TYPE_CHECKING:
    from vault.broker import Link, ServeOptions

__all__ = ["serve"]


@dataclass(frozen=True, slots=True)
class _Settings:
    """What one broker process is told; sent to workers."""

    folder: Path
    options: "ServeOptions"
    vendors: str | None
    key_age: timedelta | None
    endpoints: tuple[str, ...]
    metrics_to: tuple[str, ...]
    log_level: str


def _option(name: str, **about: Any) -> Any:
    """An option of ``serve``, which a variable stands in for where it is not given."""
    return typer.Option(name, envvar="DSVAULT_SERVE_" + name.lstrip("-").upper().replace("-", "_"), **about)


def serve(
    context: typer.Context,
    host: Annotated[str, _option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, _option("--port", min=0, max=65535, help="The port; 0 takes a free one.")] = 8750,
    vendors: Annotated[str | None, _option("--vendors", metavar="a,b", help="Serve these vendors only.")] = None,
    workers: Annotated[int, _option("--workers", metavar="N", min=1, max=64, help="So many processes.")] = 1,
    key_age: Annotated[
        str | None, _option("--key-age", metavar="DUR", help="Hold unwrapped data keys for 0s to 60s.")
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        _option("--endpoint", metavar="URL", help="A base URL that clients reach it by, if not its own address."),
    ] = None,
    metrics_to: Annotated[
        list[str] | None,
        _option("--metrics-to", metavar="CIDR", help="Who may read /metrics, or none; default: this machine."),
    ] = None,
    log_level: Annotated[
        str, _option("--log-level", help="info, warning or error; info tells each request.")
    ] = "warning",
    tls_cert: Annotated[Path | None, _option("--tls-cert", metavar="F", help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, _option("--tls-key", metavar="F", help="Its private key, PEM.")] = None,
    tls_client_ca: Annotated[
        Path | None,
        _option("--tls-client-ca", metavar="F", help="Let in only clients with a certificate of this CA, PEM."),
    ] = None,
    grace: Annotated[
        str, _option("--grace", metavar="DUR", help="How long streams may go on once it is told to stop.")
    ] = "10s",
    request_timeout: Annotated[
        str, _option("--request-timeout", metavar="DUR", help="How long a request may take to come, 1s to 5m.")
    ] = "10s",
    send_timeout: Annotated[
        str, _option("--send-timeout", metavar="DUR", help="How long a client may take nothing, 1s to 1h.")
    ] = "60s",
    connections: Annotated[
        int, _option("--connections", metavar="N", min=1, max=65535, help="At most so many to each process.")
    ] = 1000,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Run the broker. It reads the vault's broker/ directory only, and needs no owner key."""
    from vault import deployment
    from vault.broker import ServeOptions, forbid_core_dumps, listen, serve_with_workers, url_of
    from vault.encoding import duration
    from vault.errors import InvalidInput
    from vault.settings import refuse_unknown
    from vault_cli.opening import split_names

    forbid_core_dumps()
    with _naming(context):
        refuse_unknown()
        if vendors is not None:
            split_names(vendors, "--vendors")
        folder = deployment.find_vault(str(vault) if vault is not None else None)
        patience = duration(request_timeout, "--request-timeout")
        if not timedelta(seconds=1) <= patience <= timedelta(minutes=5):
            raise InvalidInput("--request-timeout: give 1s to 5m")
        sending = duration(send_timeout, "--send-timeout")
        if not timedelta(seconds=1) <= sending <= timedelta(hours=1):
            raise InvalidInput("--send-timeout: give 1s to 1h")
        lasting = duration(grace, "--grace")
        if lasting > timedelta(hours=1):
            raise InvalidInput("--grace: give 1h at the most")
        age = duration(key_age, "--key-age") if key_age is not None else None
        if age is not None and age > timedelta(seconds=60):
            raise InvalidInput("--key-age: give 0s to 60s")
        if log_level not in {"info", "warning", "error"}:
            raise InvalidInput("--log-level: use info, warning or error")
        options = ServeOptions(host, port, tls_cert, tls_key, tls_client_ca, patience, connections, lasting, sending)
        options.context()
        settings = _Settings(
            folder,
            options,
            vendors,
            age,
            deployment.broker_endpoints(folder, endpoint or ()),
            _readers(metrics_to),
            log_level,
        )
        _log_to_stderr(log_level)
        listener = listen(options)

        def ready() -> None:
            url = url_of(listener, options)
            emit({"endpoint": url}, json, f"serving on {url}")
            sys.stdout.flush()

        if workers > 1:
            serve_with_workers(_run_worker, settings, workers, listener, lasting, ready)
        else:
            _run(settings, listener, None, ready)


@contextmanager
def _naming(context: typer.Context) -> Iterator[None]:
    """Let InvalidInput about an option name the variable instead, where the value came from one."""
    from vault.errors import InvalidInput
    from vault.settings import SETTINGS, renamed

    def is_there(option: str) -> bool:
        source = context.get_parameter_source(option.lstrip("-").replace("-", "_"))
        return source is not None and source.name == "ENVIRONMENT"

    names = {each.option: each.variable for each in SETTINGS if each.of == "serve" and each.option is not None}
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(renamed(str(error), {o: v for o, v in names.items() if is_there(o)})) from error


def _readers(networks: list[str] | None) -> tuple[str, ...]:
    """Who may read the metrics: this machine, those that are named, or nobody."""
    from vault.broker import LOOPBACK
    from vault.networks import check_networks

    if networks == ["none"]:
        return ()
    return check_networks(networks, "--metrics-to") if networks else LOOPBACK


def _run_worker(settings: _Settings, listener: socket.socket, link: "Link") -> None:
    """What one of several processes does."""
    _log_to_stderr(settings.log_level)
    _run(settings, listener, link, link.ready)


def _run(settings: _Settings, listener: socket.socket, link: "Link | None", ready: Callable[[], None]) -> None:
    from vault import access, deployment
    from vault.broker import create_app, forbid_core_dumps
    from vault.broker import serve as run_server
    from vault_cli.opening import split_names

    # A worker is a process of its own, and what is forbidden to the one before an exec is not to the one after.
    forbid_core_dumps()
    parts, configuration = deployment.open_broker(settings.folder, key_age=settings.key_age)
    names = frozenset(split_names(settings.vendors, "--vendors")) if settings.vendors is not None else None
    served = access.vendor_ids(parts, names) if names is not None else None
    app = create_app(parts, served, settings.endpoints, settings.metrics_to, configuration.submissions)
    if link is not None:
        link.join(app.state.metrics)
    run_server(app, settings.options, ready, listener=listener)


def _log_to_stderr(level: str) -> None:
    """The broker's own log, and what its libraries say, as JSON lines on stderr."""
    import logging

    from vault.broker.logs import JsonFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    logging.getLogger("dsvault").setLevel(level.upper())
    logging.getLogger("urllib3").setLevel(logging.ERROR)
