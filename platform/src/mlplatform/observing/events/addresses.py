"""Addresses to which events may be sent; addresses at which a machine gives out its secrets are
not."""

from __future__ import annotations

import ipaddress
from typing import Final

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA: Final = frozenset(
    map(
        ipaddress.ip_address, ("169.254.169.254", "100.100.100.200", "192.0.0.192", "fd00:ec2::254")
    )
)
"""Addresses at which clouds give out credentials."""
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


def refusal(address: str, *, loopback: bool) -> str:
    """Why nothing is sent to an address; empty if events may be sent there.

    Args:
        loopback: whether the receiver's url names this machine.
    """
    found = _inner(ipaddress.ip_address(address.partition("%")[0]))
    if found.is_loopback:
        return "" if loopback else f"{address} is this machine, and the url does not say so"
    if loopback:
        return f"{address} is another machine, and the url names this one"
    if found in _METADATA or found.is_link_local:
        return f"{address} is link-local, or answers with a machine's credentials"
    if found.is_multicast or found.is_unspecified or found.is_reserved:
        return f"{address} is not an address of one machine"
    return ""


def _inner(address: Ip) -> Ip:
    """The IPv4 address that an IPv6 address embeds; the address itself if it embeds none."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
