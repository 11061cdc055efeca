"""Delegations: a vendor hands a part of its own access on, offline, to one annotator or subcontractor.

A delegation is a link signed by the key of whoever hands on (a JWS, RFC 7515): it names the key that may use it, and
only narrows what its signer has: columns, rows, one dataset, an end. Links form a chain from the credential's own key
to the key that proves the request. The broker believes nothing in a link but what it takes away.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from vault.encoding import is_id, new_id
from vault.errors import InvalidInput, Unauthenticated
from vault.proof import ProofKey, open_claims

__all__ = ["MOST", "Link", "check_chain", "delegate"]

#: How many links a chain may have.
MOST: Final = 3
_TYPE: Final = "dsvault-delegation+jwt"
_LONGEST_WHERE: Final = 1024
_LONGEST_NAME: Final = 100


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a chain, verified: to whom, until when, and what is left. None means all that the signer has.

    ``issued`` is when it says that it was made: what it names are the columns that had those names then.
    """

    id: str
    to: str
    expires: datetime
    dataset: str | None
    columns: tuple[str, ...] | None
    where: str | None
    issued: datetime


def delegate(
    key: ProofKey,
    *,
    credential: str,
    chain: Sequence[str],
    to: str,
    thumbprint: str,
    now: datetime,
    expires: datetime,
    dataset: str | None = None,
    columns: Sequence[str] | None = None,
    where: str | None = None,
) -> tuple[str, str]:
    """Sign a link for the key of that thumbprint; returns it and its id. ``chain`` are the signer's own links.

    Raises InvalidInput naming the option at fault.
    """
    if len(chain) >= MOST:
        raise InvalidInput(f"a chain of delegations has at most {MOST} links, and this profile is at its end")
    if not to.strip() or len(to) > _LONGEST_NAME or not to.isprintable():
        raise InvalidInput(f"--to: give a name of 1 to {_LONGEST_NAME} printable characters; the lab will read it")
    if where is not None and len(where) > _LONGEST_WHERE:
        raise InvalidInput(f"--where: a delegation takes at most {_LONGEST_WHERE} characters")
    if columns is not None and (not columns or len(set(columns)) != len(columns)):
        raise InvalidInput("--columns: name at least one column, and none twice")
    link = new_id()
    claims = {
        "id": link,
        "credential": credential,
        "to": to,
        "jkt": thumbprint,
        "iat": int(now.timestamp()),
        "exp": int(expires.timestamp()),
        "dataset": dataset,
        "columns": list(columns) if columns is not None else None,
        "where": where,
        "previous": _digest(chain[-1]) if chain else None,
    }
    signed = key.sign(_TYPE, claims)
    _opened(signed, "the delegation")
    return signed, link


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _opened(text: str, what: str) -> tuple[str, dict[str, Any]]:
    try:
        return open_claims(text, _TYPE)
    except ValueError as error:
        raise InvalidInput(f"{what} is too long: name fewer columns") from error


def check_chain(
    chain: Sequence[str], *, credential: str, thumbprint: str, now: datetime
) -> tuple[str, tuple[Link, ...]]:
    """The thumbprint of the key that has to prove the request, and the links; ``thumbprint`` is the credential's own.

    Raises Unauthenticated with the reason, for the log. Whether a link was ended is for the caller to look up.
    """
    if len(chain) > MOST:
        raise Unauthenticated("the chain of delegations is too long")
    links: list[Link] = []
    previous: str | None = None
    for text in chain:
        try:
            signer, claims = open_claims(text, _TYPE)
            link, holder = _read(claims)
            place = claims["credential"], claims["previous"]
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            raise Unauthenticated("a delegation is not one") from error
        if not hmac.compare_digest(signer, thumbprint):
            raise Unauthenticated("a delegation is not signed by whom it comes from")
        if place != (credential, previous):
            raise Unauthenticated("a delegation is of another chain")
        if link.expires <= now:
            raise Unauthenticated("a delegation has expired")
        links.append(link)
        thumbprint, previous = holder, _digest(text)
    return thumbprint, tuple(links)


def _read(claims: Mapping[str, Any]) -> tuple[Link, str]:
    columns, where, dataset = claims["columns"], claims["where"], claims["dataset"]
    texts = (claims["to"], claims["jkt"], *(columns or ()))
    if not all(isinstance(text, str) and text.isprintable() for text in texts) or not is_id(claims["id"]):
        raise ValueError("a field is not what it is to be")
    if not isinstance(columns, list | None) or not isinstance(where, str | None) or not isinstance(dataset, str | None):
        raise ValueError("a field is not what it is to be")  # noqa: TRY004 -- what comes from outside is a value
    if not claims["jkt"].isascii():
        raise ValueError("a thumbprint is none")  # and could not be compared as one
    if len(claims["to"]) > _LONGEST_NAME or (where is not None and len(where) > _LONGEST_WHERE):
        raise ValueError("a field is too long")
    taken = tuple(columns) if columns is not None else None
    expires, issued = _moment(claims["exp"]), _moment(claims["iat"])
    return Link(claims["id"], claims["to"], expires, dataset, taken, where, issued), claims["jkt"]


def _moment(value: Any) -> datetime:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**36:
        raise ValueError("a time is none")
    return datetime.fromtimestamp(value, UTC)
