"""Redis with something to fall back on: a primary and a replica behind one address, or a cluster that helps itself."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import httpx
import pytest
import redis

from app.adapters.redis_scripts import log_key
from app.client.session import StreamOptions
from app.protocol.rest import SessionCreated
from tenants.clinic import ClinicId
from tests.support.aws_emulator import started
from tests.support.captioned import Pair, two_servers
from tests.support.outages import SETTLE_SECONDS
from tests.support.raw_socket import eventually
from tests.support.redis_cluster import Cluster, Node, cluster, free_ports, until
from tests.support.redis_server import RedisServer, running
from tests.support.speaking import Person, Speaking
from tests.support.tcp_switch import TcpSwitch, tcp_switch


class Redundant(Protocol):
    """A Redis of several servers."""

    @property
    def url(self) -> str:
        """For ``KIKITORI_REDIS_URL``."""

    def strike(self, clinic: str) -> None:
        """The server that has the clinic's keys is killed."""

    async def take_over(self) -> None:
        """Return when another has taken its place."""

    async def mend(self) -> None:
        """Whatever was done to it, all servers are there again, and in step."""


class Replicated:
    """A primary and its replica; the address leads to the primary, and elsewhere only when it is told to."""

    def __init__(self, servers: tuple[RedisServer, RedisServer], switch: TcpSwitch) -> None:
        self.primary, self.replica = servers
        self._switch = switch
        self._struck = False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._switch.port}"

    def strike(self, clinic: str) -> None:
        """Whoever it is, there is one primary."""
        del clinic
        self.primary.kill()
        self._struck = True

    async def cut_off(self) -> None:
        """From now on the replica gets nothing of what the primary acknowledges."""
        await self._ask(self.replica, "REPLICAOF", "NO", "ONE")

    async def take_over(self) -> None:
        await self.cut_off()
        self._switch.target = self.replica.port

    async def mend(self) -> None:
        if self._struck:
            await self.take_over()
            await asyncio.to_thread(self.primary.start)
            self.primary, self.replica, self._struck = self.replica, self.primary, False
        await self.follow()

    async def follow(self) -> None:
        """Return when the replica has what the primary has."""
        await self._ask(self.replica, "REPLICAOF", "127.0.0.1", self.primary.port)
        await asyncio.to_thread(until, self._in_step, "the replica does not follow")

    def _in_step(self) -> bool:
        told = [_ask(server, "INFO", "replication") for server in (self.primary, self.replica)]
        at = {one["master_repl_offset" if one["role"] == "master" else "slave_repl_offset"] for one in told}
        return told[1].get("master_link_status") == "up" and len(at) == 1

    @staticmethod
    async def _ask(server: RedisServer, *words: str | int) -> None:
        await asyncio.to_thread(_ask, server, *words)


def _ask(server: RedisServer, *words: str | int) -> Any:
    with redis.Redis(unix_socket_path=str(server.socket_path), socket_timeout=5.0) as client:
        return client.execute_command(*words)


class Clustered:
    """Three primaries with a replica each."""

    def __init__(self, nodes: Cluster) -> None:
        self.nodes = nodes
        self._clinic = ""
        self._struck: Node | None = None

    @property
    def url(self) -> str:
        return self.nodes.url

    def strike(self, clinic: str) -> None:
        self._clinic, self._struck = clinic, self.primary_of(clinic)
        self._struck.kill()

    async def take_over(self) -> None:
        await asyncio.to_thread(until, self._has_moved, "no replica takes over")

    async def mend(self) -> None:
        if self._struck is not None:
            await asyncio.to_thread(self._struck.start)
            self._struck = None
        await asyncio.to_thread(self.nodes.until_whole)

    def _has_moved(self) -> bool:
        return self.primary_of(self._clinic) is not self._struck

    def primary_of(self, clinic: str) -> Node:
        """The node that has the clinic's keys."""
        return self.nodes.primary_of(log_key(ClinicId(clinic)))

    def elsewhere(self, clinic: str) -> str:
        """Another clinic, whose keys another node has."""
        here = self.primary_of(clinic)
        names = (f"{clinic}-{number}" for number in range(100))
        return next(name for name in names if self.primary_of(name) is not here)


@asynccontextmanager
async def replicated() -> AsyncIterator[Replicated]:
    """A pair in step."""
    program = shutil.which("redis-server")
    with ExitStack() as stack:
        first, second = (stack.enter_context(running(program, port=port)) for port in free_ports(2))
        async with tcp_switch(first.port) as switch:
            pair = Replicated((first, second), switch)
            await pair.follow()
            yield pair


@asynccontextmanager
async def clustered() -> AsyncIterator[Clustered]:
    """A cluster that takes writes."""
    with cluster() as nodes:
        yield Clustered(nodes)


_R = TypeVar("_R", bound=Redundant)


@dataclass(frozen=True)
class Place(Generic[_R]):
    """Two servers, their Redis, and an address for speakers that leads to one of the two."""

    redis: _R
    pair: Pair
    door: TcpSwitch

    def lead_to(self, person: Person) -> None:
        """From now on the address leads to this person's server."""
        self.door.target = int(person.server.url.rpartition(":")[2])

    async def mend(self) -> None:
        """Everything is there again and answers."""
        await self.redis.mend()
        for server in self.pair.servers:
            if not server.running:
                await server.start()
            async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
                asked = partial(http.get, "/readyz")
                await eventually(asked, lambda answer: answer.status_code == 200, SETTLE_SECONDS)

    def at_the_door(self, person: Person, created: SessionCreated, pcm: bytes) -> Speaking:
        """A speaker who comes back to wherever the address leads."""
        origin = f"ws://127.0.0.1:{self.door.port}"
        return person.speaking(created, pcm, StreamOptions(realtime=True, origin=origin))


@asynccontextmanager
async def made(
    factory: pytest.TempPathFactory, mode: Callable[[], AbstractAsyncContextManager[_R]]
) -> AsyncIterator[Place[_R]]:
    """Two servers at work with a Redis of that kind."""
    folder = factory.mktemp("modes")
    async with AsyncExitStack() as stack:
        emulator = stack.enter_context(started(folder, "--max-streams", "40"))
        servers = await stack.enter_async_context(mode())
        door = await stack.enter_async_context(tcp_switch(free_ports(1)[0]))
        pair = two_servers(folder, servers.url, emulator, door=door.port, resume_window_seconds="16")
        yield Place(servers, await stack.enter_async_context(pair), door)
