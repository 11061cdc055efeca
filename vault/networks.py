"""Networks that a credential may be used from, and addresses that a broker may have.

Networks are CIDR ranges (RFC 4632, RFC 4291 section 2.3).
"""

import ipaddress
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from vault.errors import InvalidInput

__all__ = ["check_endpoint", "check_networks", "is_loopback", "is_private", "within"]


def check_networks(texts: Sequence[str], option: str) -> tuple[str, ...]:
    """Ranges in their normal form; raises InvalidInput naming the option and the text that is not one."""
    found = []
    for text in texts:
        try:
            found.append(str(ipaddress.ip_network(text.strip())))
        except ValueError as error:
            raise InvalidInput(
                f"{option}: {text[:80]!r} is no network such as 192.0.2.0/24 or 2001:db8::/32"
            ) from error
    return tuple(found)


def within(address: str, networks: Iterable[str]) -> bool:
    """Whether an address is in one of these ranges; what is no address is in none.

    An IPv4 client of a socket that takes both kinds shows up as ``::ffff:192.0.2.1`` and counts as what it is.
    """
    try:
        found: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in ipaddress.ip_network(network) for network in networks)


def check_endpoint(url: str, where: str) -> str:
    """A broker's base URL that a client takes, without the slash at its end; raises InvalidInput saying ``where``."""
    try:
        pieces = urlsplit(url)
        good = is_private(url) and pieces.username is None and not pieces.query and not pieces.fragment
        _ = pieces.port  # raises ValueError for what is no port
    except ValueError:
        good = False
    if not good or not url.isprintable() or " " in url:
        raise InvalidInput(
            f"{where}: {url[:200]!r} is no base URL such as https://lab.example:8750; it must be https, or http on "
            "this machine's loopback"
        )
    return url.rstrip("/")


def is_private(url: str) -> bool:
    """Whether nobody on the way can read along: https, or http that never leaves this machine."""
    try:
        pieces = urlsplit(url)
    except ValueError:
        return False
    return (pieces.scheme == "https" and bool(pieces.hostname)) or (
        pieces.scheme == "http" and is_loopback(pieces.hostname)
    )


def is_loopback(host: str | None) -> bool:
    """Whether a host is this machine, by its name or address alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
