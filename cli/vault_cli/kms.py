"""``dsvault kms``."""

import json as json_text
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from vault_cli.opening import open_vault, split_names
from vault_cli.options import Json, VaultDir
from vault_cli.output import emit, table

if TYPE_CHECKING:
    from vault.custody import Custody

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)
Holder = Annotated[str, typer.Argument(metavar="VENDOR", help="The vendor's name, or owner.")]
Key = Annotated[
    str | None, typer.Option("--key", metavar="REF", help="An earlier KMS key of the vendor's, as rewrap named it.")
]


class Format(StrEnum):
    """The languages of policies."""

    OPENBAO = "openbao"
    AWS_IAM = "aws-iam"
    AWS_KEY = "aws-key"


@app.command("list")
def list_(vault: VaultDir = None, json: Json = False) -> None:
    """List the KMS keys of the owner and the vendors, and how the KMS says that they stand."""
    states = open_vault(vault).kms_keys()
    emit(
        {"keys": [asdict(state) for state in states]},
        json,
        lambda: table(
            ("holder", "state", "data keys", "KMS key", "moving to"),
            [row for each in states for row in _rows(each)],
        ),
    )


def _rows(each: "Custody") -> list[tuple[object, ...]]:
    earlier = [(each.holder, state.value, 0, f"{key} (before a rewrap)", None) for key, state in each.earlier]
    return [*earlier, (each.holder, each.state.value, each.data_keys, each.key, each.successor)]


@app.command()
def policy(
    vendor: Annotated[str, typer.Option("--vendor", metavar="V", help="The vendor, or several: a,b.")],
    form: Annotated[
        Format | None, typer.Option("--format", help="The policy's language; by default that of the vault's KMS.")
    ] = None,
    broker: Annotated[
        str | None, typer.Option("--broker", metavar="ARN", help="aws-key: the role of the broker.")
    ] = None,
    owner: Annotated[str | None, typer.Option("--owner", metavar="ARN", help="aws-key: the role of the lab.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Write each policy to a file of its own there.")
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Print the policy that holds a broker to the columns of the vendor's live grants."""
    from vault import deployment
    from vault.errors import InvalidInput
    from vault.kms.policies import AWS_POLICIES_OF_A_ROLE

    opened = open_vault(vault)
    uri = urlsplit(deployment.kms_uri(opened.folder))
    found = [opened.privileges(name) for name in split_names(vendor, "--vendor")]
    chosen = form or {"transit": Format.OPENBAO, "awskms": Format.AWS_IAM}.get(uri.scheme)
    if chosen is None:
        raise InvalidInput(f"a KMS of the scheme {uri.scheme} has no policies; a broker is held by what it is given")
    keys = [key for each in found for key in each.keys]
    contexts = [scope.context() for each in found for scope in each.scopes]
    document: dict[str, Any] = {
        "vendors": [each.vendor for each in found],
        "format": chosen.value,
        "kms_keys": keys,
        "policy": _policy(chosen, uri.path.strip("/"), keys, contexts, broker, owner),
    }
    if chosen is Format.AWS_IAM and len(document["policy"]) > AWS_POLICIES_OF_A_ROLE:
        typer.echo(
            f"dsvault: these are {len(document['policy'])} policies, and AWS attaches {AWS_POLICIES_OF_A_ROLE} to a "
            "role unless its quota was raised; --format aws-key needs none of them",
            err=True,
        )
    if output is not None:
        document["files"] = _write(output, chosen, document["policy"])
    told = "\n".join(f"wrote {path}" for path in document.get("files", ()))
    emit(document, json, told or (lambda: _show(document["policy"])))


def _write(folder: Path, form: Format, policy: Any) -> list[str]:
    """Files that the services' own tools take: one policy each; what was there before is replaced."""
    if form is Format.OPENBAO:
        files = {"policy.hcl": policy}
    elif form is Format.AWS_IAM:
        files = {f"policy-{number}.json": _text(each) for number, each in enumerate(policy, 1)}
    else:
        files = {f"{key.rpartition('/')[2]}.json": _text(each) for key, each in policy.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return [str(folder / name) for name in files]


def _text(policy: Any) -> str:
    return json_text.dumps(policy, indent=2) + "\n"


def _policy(
    form: Format, mount: str, keys: list[str], contexts: list[dict[str, str]], broker: str | None, owner: str | None
) -> Any:
    from vault.errors import InvalidInput
    from vault.kms.policies import aws_iam_policies, aws_key_policy, openbao_policy

    if form is Format.OPENBAO:
        return openbao_policy(mount, keys, contexts)
    if form is Format.AWS_IAM:
        return aws_iam_policies(keys, contexts)
    if broker is None or owner is None:
        raise InvalidInput("--format aws-key needs --broker ARN and --owner ARN")
    return {key: aws_key_policy(key, contexts, broker, owner) for key in keys}


def _show(policy: Any) -> None:
    typer.echo(policy if isinstance(policy, str) else json_text.dumps(policy, indent=2))


@app.command()
def disable(vendor: Holder, key: Key = None, vault: VaultDir = None, json: Json = False) -> None:
    """Have the KMS refuse what opens a vendor's data; brokers serve what they hold for at most a minute."""
    references = open_vault(vault).disable_kms_key(vendor, key)
    undo = f"'dsvault kms enable {vendor}{f' --key {key}' if key else ''}' undoes it"
    told = "\n".join([*(f"disabled {reference}" for reference in references), undo])
    emit({"vendor": vendor, "keys": references, "state": "disabled"}, json, told)


@app.command()
def enable(vendor: Holder, key: Key = None, vault: VaultDir = None, json: Json = False) -> None:
    """Let a vendor's KMS key be used again."""
    references = open_vault(vault).enable_kms_key(vendor, key)
    told = "\n".join(f"enabled {reference}" for reference in references)
    emit({"vendor": vendor, "keys": references, "state": "enabled"}, json, told)


@app.command()
def passphrase(
    none: Annotated[bool, typer.Option("--none", help="Take the passphrase away.")] = False,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Seal every key file of the vault under another passphrase.

    The present one is in DSVAULT_PASSPHRASE; the new one is in DSVAULT_NEW_PASSPHRASE, or asked for. A run that was
    cut short is finished by running it again.
    """
    import os

    from vault import deployment

    new = None
    if not none:
        new = os.environ.get("DSVAULT_NEW_PASSPHRASE") or typer.prompt(
            "new passphrase", hide_input=True, confirmation_prompt=True, err=True
        )
    files = deployment.change_passphrase(deployment.find_vault(str(vault) if vault is not None else None), new)
    told = f"sealed {files} key files anew; restart every broker of this vault with the new passphrase"
    emit({"files": files, "sealed": new is not None}, json, told)
