"""Opening a profile, and making the files of requests for credentials and of delegations."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from vault.client.datasets import Client
from vault.client.http import PATIENCE
from vault.client.trust import Trust
from vault.delegation import delegate as _delegate
from vault.encoding import LONGEST, from_timestamp, timestamp, utcnow
from vault.errors import InvalidInput
from vault.networks import check_endpoint
from vault.proof import ProofKey, requested_key
from vault.wire import Profile, Token

__all__ = ["connect", "connect_with_token", "delegate", "new_request"]


def connect(
    profile: "str | os.PathLike[str]",
    key: "str | os.PathLike[str] | None" = None,
    *,
    compression: str | None = None,
    patience: timedelta = PATIENCE,
    ca: "str | os.PathLike[str] | None" = None,
    client_cert: "str | os.PathLike[str] | None" = None,
    client_key: "str | os.PathLike[str] | None" = None,
) -> "Client":
    """Open a profile file; raises InvalidInput when it cannot be read or used. Nothing is sent yet.

    ``key`` is the file of the private key that the credential is bound to, where the profile does not hold it; by
    default it is looked for among the files beside the profile whose names end in ``.key.json``. ``compression`` of
    what is sent is ``none``, ``lz4`` or ``zstd``, by default ``none`` on loopback and ``zstd`` elsewhere. A read whose
    connection breaks goes on where it was, without a row lost or doubled, for as long as something comes within
    ``patience``. ``ca`` is a PEM file of the authorities that the broker's certificate may be of, in the place of the
    system's; ``client_cert`` and ``client_key`` are for a broker that asks for a certificate of yours.
    """
    path = Path(profile)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path}: the profile cannot be read ({error.strerror})") from error
    parsed = Profile.parse(data, str(path))
    check_endpoint(parsed.endpoint, f"{path}: endpoint")
    own = _key_of(parsed, path, Path(key) if key is not None else None)
    trust = Trust(ca, client_cert, client_key)
    options: dict[str, Any] = {"compression": compression, "patience": patience}
    # Names of files, for a process that is somewhere else; whichever the profile holds, they hold no secret.
    files = {"profile": profile, "key": key, "ca": ca, "client_cert": client_cert, "client_key": client_key}
    named = {name: str(Path(file).absolute()) for name, file in files.items() if file is not None}
    return Client(parsed, own, **options, trust=trust, reopening=(connect, named | options))


def connect_with_token(
    endpoint: str,
    token: Callable[[], str],
    *,
    compression: str | None = None,
    patience: timedelta = PATIENCE,
    ca: "str | os.PathLike[str] | None" = None,
    client_cert: "str | os.PathLike[str] | None" = None,
    client_key: "str | os.PathLike[str] | None" = None,
) -> "Client":
    """A client that presents the tokens of your own identity provider, where the lab accepts those.

    ``token`` is asked for one before each request, so that it may be renewed; the other options are those of `connect`.
    Raises InvalidInput for an endpoint that is not https.
    """
    profile = Profile(endpoint, "", "", Token("", b""), "", "")
    trust = Trust(ca, client_cert, client_key)
    return Client(profile, compression=compression, patience=patience, token=token, trust=trust)


def _key_of(profile: Profile, path: Path, given: Path | None) -> ProofKey | None:
    """The private key of a credential that is bound to one; raises InvalidInput where it is not to be found."""
    if profile.thumbprint is None:
        if given is not None:
            raise InvalidInput(f"{given}: the credential in {path} is a bearer's, and bound to no key")
        return None
    if given is None and profile.key is not None:
        key = ProofKey.parse(profile.key, str(path))
        if key.thumbprint != profile.thumbprint:
            raise InvalidInput(f"{path}: the key in the profile is not the one that its credential is bound to")
        return key
    for candidate in [given] if given is not None else sorted(path.parent.glob("*.key.json")):
        found = _read_key(candidate)
        if found.thumbprint == profile.thumbprint:
            return found
        if given is not None:
            raise InvalidInput(f"{given}: this is not the key that the profile's credential is bound to")
    raise InvalidInput(
        f"{path}: the private key that asked for this credential is not beside the profile; name its file with --key"
    )


def _read_key(path: Path) -> ProofKey:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"{path}: the key cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: this is not a private Ed25519 or P-256 key as JWK") from error
    return ProofKey.parse(document, str(path))


def delegate(
    profile: "str | os.PathLike[str]",
    to: str,
    output: "str | os.PathLike[str]",
    *,
    expires: timedelta,
    dataset: str | None = None,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    request: "str | os.PathLike[str] | None" = None,
    key: "str | os.PathLike[str] | None" = None,
) -> str:
    """Hand a part of a profile's access on, without asking anybody: writes a profile for ``to``, returns its id.

    It is good for these columns, and the rows that ``where`` keeps (over all columns that the profile may read), until
    it or anything that it comes from ends: no later than the profile, whatever ``expires`` is. ``request`` is the file
    of a key that the other side made; else one is made for it. Raises InvalidInput.
    """
    own = connect(profile, key)
    parsed, signer = own.profile, own.connection.key
    if signer is None:
        raise InvalidInput(f"{profile}: a bearer credential is bound to no key, so it cannot be delegated")
    now = utcnow()
    left = from_timestamp(parsed.expires) - now
    if left <= timedelta(0):
        raise InvalidInput(f"{profile}: your own access ended at {parsed.expires}, so nothing of it can be handed on")
    if not timedelta(0) < expires <= LONGEST:
        raise InvalidInput("--expires: give a time in the future, and not a hundred years ahead")
    expires = min(expires, left)
    made = ProofKey.create() if request is None else None
    thumbprint = made.thumbprint if made is not None else requested_key(str(request))
    link, identity = _delegate(
        signer,
        credential=parsed.token.credential,
        chain=parsed.delegations,
        to=to,
        thumbprint=thumbprint,
        now=now,
        expires=now + expires,
        dataset=dataset,
        columns=columns,
        where=where,
    )
    narrowed = replace(
        parsed,
        thumbprint=thumbprint,
        key=made.document() if made is not None else None,
        expires=min(parsed.expires, timestamp(now + expires)),
        delegations=(*parsed.delegations, link),
    )
    _write_new(Path(output), narrowed.document())
    return identity


def new_request(
    request: "str | os.PathLike[str]", key: "str | os.PathLike[str]", kind: str = "ed25519", name: str | None = None
) -> str:
    """Make a private key and a request for a credential that is bound to it, in two files; returns its thumbprint.

    Raises InvalidInput where a file exists or cannot be written; then neither is left.
    """
    made = ProofKey.create(kind)
    _write_new(Path(key), made.document())
    try:
        _write_new(Path(request), made.request(name, utcnow()))
    except InvalidInput:
        Path(key).unlink()
        raise
    return made.thumbprint


def _write_new(path: Path, document: dict[str, Any]) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InvalidInput(f"{path}: the file exists already and is not overwritten") from error
    except OSError as error:
        raise InvalidInput(f"{path}: the file cannot be written ({error.strerror})") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(document, indent=2) + "\n")
