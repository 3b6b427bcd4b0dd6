"""Addresses that a caller writes into a call (images, files): which of them name something in the public net, read by one parser.

Whatever fetches such an address, we or a target, stands inside somebody's network, and the caller does not. So an address
has one reading or none, and what it means must be a public machine: not this one, not a neighbour, not a metadata service,
and not one of these written as an address of another family.
"""

import ipaddress
import re
from typing import Final, Literal

import msgspec

RemoteUrls = Literal["refuse", "fetch", "pass"]
"""What becomes of a remote address in a call: refused, fetched here and replaced by what it holds, or left to the target."""

LONGEST_URL: Final = 2048
_URL: Final = re.compile(
    r"([Hh][Tt][Tt][Pp][Ss]?)://((?:[A-Za-z0-9-]+\.)*[A-Za-z0-9-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?"
    r"((?:/[A-Za-z0-9\-._~!$&'()*+,;=:@/%]*)?(?:\?[A-Za-z0-9\-._~!$&'()*+,;=:@/?%]*)?)(?:#[!-~]*)?",
    re.ASCII,
)
_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LOOKS_NUMERIC: Final = re.compile(r"(?:[0-9]+|0[xX][0-9A-Fa-f]*)", re.ASCII)
_LOCAL_NAMES: Final = ("localhost", "local", "internal", "intranet", "lan", "home", "corp", "private", "arpa", "test", "onion")
_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""NAT64: the last four bytes are an IPv4 address, and that is what is reached."""
_GLOBAL: Final = ipaddress.IPv6Network("2000::/3")
_DISGUISES: Final = tuple(ipaddress.IPv6Network(net) for net in ("2001::/23", "2002::/16", "64:ff9b:1::/48", "2001:db8::/32", "3fff::/20"))
"""Teredo, 6to4, local NAT64 and documentation: nothing public is only to be had there."""


class UrlRefused(Exception):
    """An address that is not gone to; the text says why, for the caller. It never tells what a name means in our network."""


class RemoteUrl(msgspec.Struct, frozen=True):
    """An address as it will be connected to. `host` is lower case and without brackets; `target` is path and query."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Host and port as the `host` header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"

    @property
    def literal(self) -> bool:
        """Whether the host is an address and no name."""
        return ":" in self.host or self.host.rsplit(".", 1)[-1].isdigit()


def parse_url(text: str) -> RemoteUrl:
    """The one reading of an address.

    Raises:
        UrlRefused: not http or https, with a user name, not in plain ASCII, or with a host that parsers disagree about.
    """
    found = _URL.fullmatch(text) if len(text) <= LONGEST_URL else None
    if found is None or _PERCENT.search(text):
        raise UrlRefused("it is not a plain https address")
    scheme, host, port, target = found[1].lower(), found[2].lower(), found[3], found[4]
    if host.startswith("["):
        host = host[1:-1]
        try:
            host = ipaddress.IPv6Address(host).compressed
        except ValueError:
            raise UrlRefused("its host is not an address") from None
    elif _LOOKS_NUMERIC.fullmatch(host.rsplit(".", 1)[-1]):
        # 127.1, 0x7f.1 and 2130706433 are this machine to some parsers and names to others.
        try:
            host = str(ipaddress.IPv4Address(host))
        except ValueError:
            raise UrlRefused("its host is not an address that is written in full") from None
    number = int(port) if port else 443 if scheme == "https" else 80
    if not 0 < number < 65536:
        raise UrlRefused("its port is none")
    return RemoteUrl("https" if scheme == "https" else "http", host, number, target if target.startswith("/") else f"/{target}")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public net, under whatever disguise."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _TRANSLATED:
            return is_public(str(ipaddress.IPv4Address(ip.packed[12:])))
        return ip in _GLOBAL and ip.is_global and not ip.is_multicast and not any(ip in net for net in _DISGUISES)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def check_for_target(text: str) -> None:
    """What can be said of an address that a target will fetch, without asking what its name means.

    Raises:
        UrlRefused: it is not https, names an address that is not public, or a machine of some local network by its very name.
    """
    url = parse_url(text)
    if url.scheme != "https":
        raise UrlRefused("it is not an https address")
    if url.literal:
        if not is_public(url.host):
            raise UrlRefused("it does not name a public machine")
    elif "." not in url.host or url.host.rsplit(".", 1)[-1] in _LOCAL_NAMES:
        raise UrlRefused("it does not name a public machine")
