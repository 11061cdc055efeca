"""``dsvault root``: who may sign what, and changing it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vault.errors import InvalidInput
from vault_cli.opening import open_vault
from vault_cli.options import Json, VaultDir
from vault_cli.output import emit, printable, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vault.owner import Vault
    from vault.roots import Applied
    from vault.trust import Role, Root, Signed

__all__ = ["app", "tell_proposal", "told_applied"]

_LOG_KEY = (
    "brokers on other machines, and directories of who is on call, need the new log key (broker/log-….json): without "
    "it they serve nothing, and not even a freeze works from there"
)

app = typer.Typer(no_args_is_help=True)
RoleName = Annotated[
    str,
    typer.Argument(metavar="ROLE", help="administrator, authority, responder, publisher, log, auditor or approver."),
]
KmsUri = Annotated[
    str | None, typer.Option("--kms", metavar="URI", help="Keep the private key in this KMS: transit:// or awskms://.")
]
LeaveOut = Annotated[
    list[str] | None,
    typer.Option(
        "--leave-out",
        metavar="VENDOR",
        help="Sign nothing anew for this vendor, which is left frozen, without grants and credentials; repeatable.",
    ),
]
EndGrants = Annotated[
    bool,
    typer.Option(
        "--end-grants", help="End live grants that lack signatures on a protected dataset, instead of refusing."
    ),
]
Proposal = Annotated[Path, typer.Argument(metavar="FILE", help="The proposal.")]


@app.command()
def show(
    proposal: Annotated[
        Path | None,
        typer.Option(
            "--proposal", metavar="FILE", help="What a proposal says; compared with a vault where --vault is."
        ),
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Show the newest root document: its version, and the keys of every role."""
    if proposal is not None:
        from vault import roots

        _show_proposal(roots.read(proposal), json, _root_of(vault))
        return
    opened = open_vault(vault)
    states = opened.root_keys()
    root = opened.parts.root
    document = {
        "vault": root.vault,
        "version": root.version,
        "fingerprint": root.fingerprint,
        "keys": [
            {"role": state.role.value, "id": state.id, "here": state.here, "signers": state.threshold}
            for state in states
        ],
        "protected": _protected(root.protected, _names(opened)),
    }

    def human() -> None:
        typer.echo(f"version {root.version}, fingerprint {root.fingerprint}")
        rows = [(state.role.value, state.id, state.threshold, "here" if state.here else "") for state in states]
        table(("role", "key", "must sign", "private key"), rows)
        _tell_protected(document)

    emit(document, json, human)


def _names(opened: "Vault") -> dict[str, str]:
    """The names of datasets by id."""
    from vault.workings.names import datasets

    parts = opened.parts
    with parts.catalog.read() as transaction:
        return {dataset.id: dataset.name for dataset in datasets(transaction, parts.sealer(), deleted_too=True)}


def _protected(protected: "Mapping[str, int]", names: "Mapping[str, str]") -> list[dict[str, Any]]:
    return [{"dataset": key, "name": names.get(key), "signers": signers} for key, signers in sorted(protected.items())]


def _tell_protected(document: dict[str, Any]) -> None:
    for entry in document["protected"]:
        name = f" ({printable(entry['name'])})" if entry["name"] is not None else ""
        typer.echo(f"protected: grants on {entry['dataset']}{name} need {entry['signers']} signatures")


def _content(signed: "Signed", names: "Mapping[str, str] | None" = None) -> dict[str, Any]:
    from vault.trust.root import read_proposal

    claimed = read_proposal(signed)
    return {
        "vault": claimed.vault,
        "version": claimed.version,
        "keys": [
            {"role": role.value, "id": key, "signers": entry.threshold}
            for role, entry in claimed.roles.items()
            for key in entry.keys
        ],
        "protected": _protected(claimed.protected, names or {}),
        "signatures_claimed": sorted({key for key, _ in signed.signatures}),
    }


def _root_of(vault: Path | None) -> "Root | None":
    """The root document of a vault that was named; a proposal can be read and signed without one."""
    return open_vault(vault).parts.root.refresh() if vault is not None else None


def _show_proposal(signed: "Signed", json: bool, root: "Root | None") -> None:
    from vault.trust import Role
    from vault.trust.proposals import changed_keys, changed_protection, check_form, check_next, signers_of

    document = _content(signed)
    if root is not None:
        check_next(root, signed)
        claimed = check_form(signed)
        added, removed = changed_keys(root, claimed)
        signers = {"signed_by": sorted(signers_of(root, signed))}
        document |= {"added": added, "removed": removed, "protection": changed_protection(root, claimed), **signers}

    def human() -> None:
        typer.echo(f"proposed version {document['version']} of vault {document['vault']}")
        table(
            ("role", "key", "must sign"), [(entry["role"], entry["id"], entry["signers"]) for entry in document["keys"]]
        )
        _tell_protected(document)
        if root is None:
            claimed = ", ".join(printable(key) for key in document["signatures_claimed"])
            typer.echo(f"signatures that it carries, not verified without --vault: {claimed or 'none'}")
            return
        for change in ("added", "removed"):
            typer.echo(f"{change}: {', '.join(document[change]) or 'no key'}")
        for dataset, signers in document["protection"].items():
            typer.echo(f"changed: grants on {dataset} need {signers} signature{'s' if signers > 1 else ''}")
        need = root.roles[Role.ADMINISTRATOR].threshold
        typer.echo(f"signatures that hold, of {need} needed: {', '.join(document['signed_by']) or 'none'}")

    emit(document, json, human)


@app.command("new-key")
def new_key(
    role: RoleName,
    out: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where the private key goes.")],
    kms: KmsUri = None,
    json: Json = False,
) -> None:
    """Make a private key, and its public half in FILE.pub. DSVAULT_PASSPHRASE, if set, seals it. Needs no vault.

    With --kms the private key is made in the KMS and stays there; FILE says where it is.
    """
    from vault import roots
    from vault.deployment import passphrase

    key = roots.new_key(_role(role), out, passphrase(), kms)
    told = f"made the {role} key {key} in {out}\nits public half is in {out}.pub"
    emit({"role": role, "key": key, "file": str(out), "public_file": f"{out}.pub"}, json, told)


@app.command()
def propose(
    out: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where the proposal goes.")],
    add: Annotated[
        list[str] | None, typer.Option("--add", metavar="ROLE=FILE", help="A public key to add; repeatable.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="ROLE=KEY", help="A key id, or its beginning; repeatable.")
    ] = None,
    signers: Annotated[
        int | None, typer.Option("--signers", metavar="N", help="How many administrators must sign from then on.")
    ] = None,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Propose the next root document, signed by the administrator whose key is here, if one is."""
    from vault import roots
    from vault.trust import Role
    from vault.trust.proposals import Change
    from vault.workings.keyfolder import read_public_file

    added = [_pair(text, "--add") for text in add or ()]
    change = Change(
        add=tuple((role, read_public_file(Path(path), role)) for role, path in added),
        remove=tuple(_pair(text, "--remove") for text in remove or ()),
        signers={} if signers is None else {Role.ADMINISTRATOR: signers},
    )
    opened = open_vault(vault)
    proposal = opened.propose_root(change)
    roots.write(out, proposal)
    have, need = roots.signed_by(opened.parts, proposal)
    _tell_signatures(out, proposal, have, need, json)


def _tell_signatures(out: Path, proposal: "Signed", have: frozenset[str], need: int, json: bool) -> None:
    document = {"file": str(out), **_content(proposal), "signed_by": sorted(have), "signers_needed": need}
    lacks = need - len(have)
    told = (
        f"wrote {out}; 'dsvault root apply {out}' makes it the root document"
        if lacks <= 0
        else f"wrote {out}; {lacks} more of the administrators must sign it ('dsvault root sign {out} --key FILE')"
    )
    emit(document, json, told)


@app.command()
def sign(
    proposal: Proposal,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="An administrator's private key.")],
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Add an administrator's signature to a proposal, and show what was signed.

    Needs no vault; with --vault a proposal is refused that is not the next version of that vault's root document.
    """
    from vault import roots
    from vault.deployment import passphrase

    root = _root_of(vault)
    signed, identifier = roots.sign(proposal, key, passphrase(), root)
    _show_proposal(signed, json, root)
    if not json:
        typer.echo(f"signed {proposal} with {identifier}")


@app.command()
def apply(
    proposal: Proposal,
    leave_out: LeaveOut = None,
    end_grants: EndGrants = False,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Make a proposal the root document, and sign anew what a removed key had signed."""
    from vault import roots

    opened = open_vault(vault)
    applied = opened.apply_root(roots.read(proposal), leave_out or (), end_grants=end_grants)
    names = {opened.show(each.name).id: each.name for each in opened.datasets()} if applied.protected else {}
    emit(asdict(applied), json, told_applied(applied, names))


def told_applied(applied: "Applied", names: "Mapping[str, str]") -> str:
    """What a change of the root document did, in lines; ``names`` of datasets are by their ids."""
    if not applied.changed:
        return f"version {applied.version} of the root document had been applied before"
    changes = [f"added {key}" for key in applied.added] + [f"removed {key}" for key in applied.removed]
    changes += [
        f"grants on {names.get(dataset, dataset)} need {signers} signature{'s' if signers > 1 else ''}"
        for dataset, signers in applied.protected.items()
    ]
    changes += [f"ended grant {grant}: it lacked signatures" for grant in applied.ended]
    changes += [f"left out {vendor}: it is frozen, and its grants and credentials ended" for vendor in applied.left_out]
    return "\n".join(
        [
            f"the root document is at version {applied.version}",
            *changes,
            f"signed anew: {applied.grants} grants, {applied.credentials} credentials, {applied.manifests} manifests, "
            f"{applied.heads} heads",
            *([_LOG_KEY] if any(key.startswith("log:") for key in applied.removed) else []),
        ]
    )


@app.command()
def rotate(
    role: RoleName,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Where the proposal goes when others must sign it."),
    ] = None,
    kms: KmsUri = None,
    leave_out: LeaveOut = None,
    end_grants: EndGrants = False,
    vault: VaultDir = None,
    json: Json = False,
) -> None:
    """Replace a role's key by a new one; where more administrators must sign, write the proposal for them."""
    wanted = _role(role)
    opened = open_vault(vault)
    rotated = opened.rotate_key(wanted, kms, leave_out or (), end_grants=end_grants)
    if rotated.applied is not None:
        told = f"the new {role} key is {rotated.key}\n{told_applied(rotated.applied, {})}"
        emit({"role": role, "key": rotated.key, **asdict(rotated.applied)}, json, told)
        return
    tell_proposal(opened, out, rotated.proposal, rotated.signed_by, rotated.needed, json)


def tell_proposal(
    opened: "Vault", out: Path | None, proposal: "Signed", have: frozenset[str], need: int, json: bool
) -> None:
    """Write a proposal that others must sign, by default as ``root-N.json``, and say so."""
    from vault import roots

    path = out or Path(f"root-{opened.parts.root.version + 1}.json")
    roots.write(path, proposal)
    _tell_signatures(path, proposal, have, need, json)


def _role(text: str) -> "Role":
    from vault.trust import Role

    try:
        return Role(text)
    except ValueError as error:
        raise InvalidInput(f"there is no role '{text[:40]}'; the roles are {', '.join(Role)}") from error


def _pair(text: str, option: str) -> tuple["Role", str]:
    role, equals, value = text.partition("=")
    if not equals or not value:
        raise InvalidInput(f"{option}: write it as ROLE=..., such as administrator=...")
    return _role(role), value
