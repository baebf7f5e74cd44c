"""Processes under test, looked at from outside: what they started, whether they are gone, what memory they take."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psutil


class Child:
    """A process that another one started; a later one that gets the same number is not taken for it."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.pid = int(process.pid)
        self.name = str(process.name())

    @property
    def alive(self) -> bool:
        """Whether it runs; one that is dead and not yet waited for does not."""
        return bool(self._process.is_running()) and self._process.status() != psutil.STATUS_ZOMBIE

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()


def children(pid: int) -> list[Child]:
    """All that ``pid`` has started, and what those have."""
    return [Child(process) for process in psutil.Process(pid).children(recursive=True)]


async def left_of(family: Sequence[Child], seconds: float = 10.0) -> list[str]:
    """The names of those that are still there after ``seconds``; returns as soon as there are none."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while True:
        left = [child.name for child in family if child.alive]
        if not left or loop.time() >= until:
            return left
        await asyncio.sleep(0.02)


def resident_bytes(pid: int) -> int:
    """RSS of one process."""
    return int(psutil.Process(pid).memory_info().rss)


def open_files(pid: int) -> int:
    """How many descriptors one process has: files, pipes, sockets but for unix ones, which belong to pools."""
    process = psutil.Process(pid)
    return int(process.num_fds()) - len(process.net_connections(kind="unix"))


def connections_to(pid: int, port: int) -> int:
    """How many TCP connections one process has to a port."""
    connections = psutil.Process(pid).net_connections(kind="tcp")
    return sum(bool(connection.raddr) and connection.raddr.port == port for connection in connections)
