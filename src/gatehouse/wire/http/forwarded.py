"""Who a request comes from when it came through proxies of ours: `X-Forwarded-For`, read from the end that can be believed.

Each proxy appends whom it heard. What a stranger wrote stands at the front, so names are taken from the back, as long as
the one who wrote them is trusted; the first that is not is the client. The header of anybody else is not looked at.
"""

import ipaddress
from collections.abc import Iterable
from typing import Final

_MOST: Final = 32
"""Proxies in a row that are followed."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class TrustedProxies:
    """Networks whose word is taken. Raises ValueError for what is no network."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(each, strict=False) for each in networks)

    def client(self, peer: str, forwarded: bytes | None) -> str:
        """Who is behind `peer`, the address that is connected; `peer` itself when its word does not count."""
        if forwarded is None or not self._trusts(_address(peer)):
            return peer
        said = peer
        for hop in reversed(forwarded.decode("latin-1").split(",")[-_MOST:]):
            address = _address(hop)
            if address is None:
                break  # nothing before a word that cannot be read can be believed
            said = str(address)
            if not self._trusts(address):
                break
        return said

    def _trusts(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def _address(text: str) -> Address | None:
    """The address in a hop: bare, or with a port as some proxies write it; an IPv4 address in IPv6's clothes is IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
