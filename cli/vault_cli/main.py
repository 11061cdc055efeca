"""The ``dsvault`` program: its commands, and the one place where errors become sentences and exit codes."""

import logging
import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from vault._version import __version__
from vault.errors import VaultError
from vault_cli import (
    approval,
    catalog,
    containing,
    credentials,
    datasets,
    evidence,
    fetching,
    grants,
    incident,
    kms,
    root,
    rotation,
    safekeeping,
    submitting,
    vendors,
)
from vault_cli.demo import demo
from vault_cli.output import printable
from vault_cli.serving import serve

__all__ = ["app", "run"]

app = typer.Typer(
    name="dsvault",
    help="An encrypted dataset vault: publish, grant, serve, fetch, revoke, rekey, prove.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dsvault {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """An encrypted dataset vault."""


app.command("init")(datasets.init)
app.add_typer(vendors.app, name="vendor", help="Vendors: add, list, freeze, thaw, offboard.")
app.command("publish")(datasets.publish)
app.add_typer(
    datasets.app, name="dataset", help="Datasets: list, show, export, protect, rename-column, expire, erase, delete."
)
app.command("grant")(grants.grant)
app.command("grants")(grants.grants)
app.command("revoke")(grants.revoke)
app.add_typer(approval.app, name="approval", help="Grants on protected datasets: request, show, sign, apply.")
app.add_typer(credentials.app, name="credential", help="Credentials: issue, request, federate, list, revoke.")
app.command("delegate")(fetching.delegate)
app.command("serve")(serve)
app.command("fetch")(fetching.fetch)
app.command("submit")(submitting.submit)
app.add_typer(submitting.app, name="submissions", help="What vendors sent back: list, show, accept, reject.")
app.add_typer(rotation.app, name="rotate", help="Rotate keys: rekey, rewrap, submission-key.")
app.add_typer(kms.app, name="kms", help="KMS keys: list, policy, disable, enable, passphrase.")
app.add_typer(root.app, name="root", help="The root document: show, propose, sign, apply, rotate, new-key.")
app.add_typer(evidence.app, name="audit", help="The audit log: show, export, verify, prove, reconcile.")
incidents = typer.Typer(no_args_is_help=True)


@incidents.callback()
def _incidents() -> None:
    """Incidents."""


incidents.command("report")(incident.report)
incidents.command("contain")(containing.contain)
incidents.command("verify")(containing.verify)
app.add_typer(incidents, name="incident", help="Incidents: report, contain, verify.")
app.command("check")(rotation.check)
app.command("gc")(rotation.gc)
app.add_typer(catalog.app, name="catalog", help="The catalog: roles.")
app.command("upgrade")(catalog.upgrade)
app.command("backup")(safekeeping.backup)
app.command("restore")(safekeeping.restore)
app.command("demo")(demo)


def run() -> NoReturn:
    """Run the program. Exit codes: 0 done, 1 refused or failed (one sentence on stderr), 2 usage."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # Each try that is repeated would be a line; what comes of it in the end is said once.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        app(standalone_mode=True)
    except VaultError as error:
        _fail("; ".join([str(error), *getattr(error, "__notes__", ())]))
    except KeyboardInterrupt as error:
        sys.stderr.write(f"dsvault: {'; '.join(['stopped', *getattr(error, '__notes__', ())])}\n")
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        # Whoever read our output has gone; what is left in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        said = f"{error.filename or 'a file'}: {error.strerror or 'cannot be used'}"
        _fail("; ".join([said, *getattr(error, "__notes__", ())]))
    except MemoryError:
        _fail("there is not enough memory")
    except Exception as error:
        if os.environ.get("DSVAULT_DEBUG"):
            raise
        _fail(f"unexpected {type(error).__name__}; set DSVAULT_DEBUG=1 to see where")
    sys.exit(0)


def _fail(sentence: str) -> NoReturn:
    # Names and types that somebody else made may stand in it.
    sys.stderr.write(f"dsvault: {printable(' '.join(sentence.split()))}\n")
    sys.exit(1)


if __name__ == "__main__":
    run()
