"""``dsvault upgrade``."""

from dataclasses import asdict

from vault_cli.options import Json, VaultDir
from vault_cli.output import emit

__all__ = ["upgrade"]


def upgrade(vault: VaultDir = None, json: Json = False) -> None:
    """Bring the catalog of a vault that an older release made to this release's schema.

    It may be killed and run again. Processes of the older release that still run refuse everything from then on.
    """
    from vault import owner

    done = owner.upgrade(vault)
    if done.before == done.after:
        said = f"the catalog has schema {done.after} already"
    else:
        said = f"upgraded the catalog from schema {done.before} to {done.after}"
    emit(asdict(done), json, said)
