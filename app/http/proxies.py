"""Who is calling, seen through proxies."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from app.config import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def caller_address(peer: str | None, forwarded_for: Sequence[str], trusted: Sequence[Network]) -> str | None:
    """The caller's address: the rightmost entry of ``X-Forwarded-For`` that is no trusted proxy.

    Args:
        peer: the address at the other end of the connection; None where it has none (a Unix socket).
        forwarded_for: the header's values in order, as often as it was sent. They count only when ``peer`` is
            trusted: anybody else could write what they like.
        trusted: the proxies.

    Where an entry is no address, the proxy that passed it on is the last one that is known, and is returned.
    """
    nearest = peer
    if not _is_trusted(_address(peer or ""), trusted):
        return peer
    for entry in reversed([entry for value in forwarded_for for entry in value.split(",")]):
        address = _address(entry.strip())
        if address is None:
            break
        nearest = str(address)
        if not _is_trusted(address, trusted):
            break
    return nearest


def _is_trusted(address: Address | None, trusted: Sequence[Network]) -> bool:
    return address is not None and any(address in network for network in trusted)


def _address(entry: str) -> Address | None:
    """An entry with or without a port: ``1.2.3.4:5``, ``[::1]:5``."""
    if entry.startswith("["):
        entry = entry[1:].partition("]")[0]
    elif entry.count(":") == 1:
        entry = entry.partition(":")[0]
    try:
        address = ipaddress.ip_address(entry)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
