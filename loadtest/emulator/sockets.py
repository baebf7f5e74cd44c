"""Loopback sockets: listening, resetting, and knowing what is open."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

from loadtest.emulator.ledger import Ledger

BACKLOG: Final = 1024
_NO_LINGER: Final = struct.pack("ii", 1, 0)


def listeners(port: int) -> list[socket.socket]:
    """Listening sockets on 127.0.0.1 and, where there is one, ::1, with the same port; 0 picks a free one.

    Raises:
        OSError: the port is taken.
    """
    found = [_bound(socket.AF_INET, "127.0.0.1", port)]
    try:
        found.append(_bound(socket.AF_INET6, "::1", found[0].getsockname()[1]))
    except OSError:
        # No IPv6 here, or another's socket on it; `localhost` is tried on 127.0.0.1 as well.
        return found
    return found


def _bound(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def reset(transport: asyncio.WriteTransport) -> None:
    """Close a connection with RST: what was not sent is lost."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


class Connections:
    """The open connections, counted in the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._open: dict[int, asyncio.WriteTransport] = {}

    def add(self, owner: object, transport: asyncio.WriteTransport) -> None:
        """A connection is open."""
        self._open[id(owner)] = transport
        self._ledger.open_connections = len(self._open)

    def discard(self, owner: object) -> None:
        """It is no longer."""
        self._open.pop(id(owner), None)
        self._ledger.open_connections = len(self._open)

    def abort_all(self) -> None:
        """Close all of them at once."""
        for transport in [*self._open.values()]:
            transport.abort()
