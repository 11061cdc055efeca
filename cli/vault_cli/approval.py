"""``dsvault approval``: co-signing grants on protected datasets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vault_cli.opening import open_vault
from vault_cli.options import Json, VaultDir
from vault_cli.output import emit, printable

if TYPE_CHECKING:
    from vault.approvals import Approval
    from vault.trust import Grant, Signed

__all__ = ["app", "told", "write_request"]

app = typer.Typer(no_args_is_help=True)
File = Annotated[Path, typer.Argument(metavar="FILE", help="The grant's file.")]


def write_request(approval: "Approval", out: Path) -> None:
    """Write the file that goes to the approvers; raises InvalidInput where one is in the way."""
    from vault.workings.files import put_new_file

    put_new_file(out, approval.signed.encode() + b"\n")


def told(approval: "Approval", path: Path) -> str:
    """How a grant stands, and what is to be done where it lacks signatures."""
    many = "s" if approval.missing > 1 else ""
    return "\n".join(
        [
            f"grant {approval.grant.id} is pending: it waits for {approval.missing} more signature{many}",
            f"send {path} to an approver, who signs it with 'dsvault approval sign {path.name} --key FILE'; "
            f"then 'dsvault approval apply {path}'",
        ]
    )


def _standing(approval: "Approval") -> dict[str, Any]:
    return {
        "id": approval.grant.id,
        "dataset": approval.grant.dataset_name,
        "vendor": approval.grant.vendor_name,
        "signed_by": list(approval.signers),
        "missing": approval.missing,
    }


@app.command()
def request(
    grant_id: Annotated[str, typer.Argument(metavar="GRANT-ID")],
    out: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where it goes (default: grant-ID.json).")
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Write the file of a pending or live grant for its approvers, with the signatures that it has."""
    approval = open_vault(vault).approval(grant_id)
    path = out or Path(f"grant-{approval.grant.id}.json")
    write_request(approval, path)
    text = told(approval, path) if approval.missing else f"wrote {path}; the grant has all signatures that it needs"
    emit({"file": str(path), **_standing(approval)}, json, text)


@app.command()
def show(grant: File, vault: VaultDir = None, json: Json = False) -> None:
    """Show everything that a grant says, from the bytes that are signed. Needs no vault.

    With --vault its names are compared with those of that vault, and the signatures are verified.
    """
    from vault import approvals

    signed, said = approvals.read(grant)
    _show(signed, said, vault, json)


def _show(signed: "Signed", grant: "Grant", vault: Path | None, json: bool) -> None:
    document: dict[str, Any] = {
        "grant": signed.document(),
        "signatures_claimed": sorted({key for key, _ in signed.signatures}),
    }
    if vault is not None:
        from vault import approvals

        parts = open_vault(vault).parts
        approvals.check_names(parts, grant)
        found = approvals.Approval.under(parts.root.refresh(), grant, signed)
        document |= {"signed_by": list(found.signers), "missing": found.missing}

    def human() -> None:
        for line in _lines(document["grant"]):
            typer.echo(printable(line))
        if vault is None:
            claimed = ", ".join(printable(key) for key in document["signatures_claimed"])
            typer.echo(f"signatures that it carries, not verified without --vault: {claimed or 'none'}")
        else:
            lacks = f"; {document['missing']} missing" if document["missing"] else ""
            typer.echo(f"signatures that hold: {', '.join(document['signed_by']) or 'none'}{lacks}")

    emit(document, json, human)


def _lines(document: dict[str, Any]) -> list[str]:
    """A line for every field that is signed, and none for anything else: what a later release adds is shown too."""
    lines = []
    for name, value in document.items():
        if name in {"columns", "filter_columns"} and value:
            lines += [f"{name}: {', '.join(f'{part} {_text(entry[part])}' for part in entry)}" for entry in value]
        else:
            lines.append(f"{name}: {_text(value)}")
    return lines


def _text(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


@app.command()
def sign(
    grant: File,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The approver's private key.")],
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Approve a grant: add an approver's signature to its file, and show what was signed. Needs no vault.

    With --vault a grant is refused whose names are others in that vault.
    """
    from vault import approvals
    from vault.deployment import passphrase

    if vault is not None:
        approvals.check_names(open_vault(vault).parts, approvals.read(grant)[1])
    signed, said, identifier = approvals.sign(grant, key, passphrase())
    _show(signed, said, vault, json)
    if not json:
        typer.echo(f"signed {grant} with {identifier}")


@app.command()
def apply(grant: File, vault: VaultDir = None, json: Json = False) -> None:
    """Take over the approvals in a grant's file; with the last one the grant takes effect."""
    found = open_vault(vault).approve(grant)
    state = "pending" if found.missing else "live"
    document = {"state": state, **_standing(found)}
    done = f"grant {found.grant.id} has all signatures that it needs: {', '.join(found.signers)}"
    emit(document, json, told(found, grant) if found.missing else done)
