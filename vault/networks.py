"""Networks that a credential may be used from, as CIDR ranges (RFC 4632, RFC 4291 section 2.3)."""

import ipaddress
from collections.abc import Iterable, Sequence

from vault.errors import InvalidInput

__all__ = ["check_networks", "within"]


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
