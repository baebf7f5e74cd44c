"""Where a key is and how its server is reached, for who keeps connections of its own: a single server, or a cluster's nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import lru_cache
from typing import Final, Protocol

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError

from app.adapters.redis_client import Client, ClusterClient


class Servers(Protocol):
    """The servers behind a client. Whoever made the client closes it."""

    @property
    def publish(self) -> str:
        """The command that publishes where subscribers listen."""

    def of(self, key: str) -> str | None:
        """The name of the server that has ``key``; None while that is not known, see ``refresh``."""

    def connection(self, server: str) -> AbstractAsyncContextManager[AbstractConnection]:
        """A connection that is connected and that nobody else uses; closed when the block fails or is cancelled.

        Raises:
            RedisError, OSError: there is none.
        """

    async def refresh(self, failed: str | None) -> None:
        """Ask again which server has what, and ``failed`` last; cancelling it does no harm.

        Raises:
            RedisError, RedisClusterException, OSError: nobody said.
        """

    async def moved(self, where: MovedError) -> None:
        """A server said that a key is elsewhere."""


def servers_of(client: Client) -> Servers:
    """The servers behind ``client``."""
    return ClusterServers(client) if isinstance(client, ClusterClient) else SingleServer(client)


class SingleServer:
    """One server, or whatever stands behind one address."""

    publish: Final = "PUBLISH"

    def __init__(self, client: Redis) -> None:
        self._pool: Final = client.connection_pool

    def of(self, key: str) -> str:
        del key
        return ""

    @asynccontextmanager
    async def connection(self, server: str) -> AsyncIterator[AbstractConnection]:
        del server
        connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]  # so in redis-py
        try:
            async with _closed_on_failure(connection):
                yield connection
        finally:
            await self._pool.release(connection)

    async def refresh(self, failed: str | None) -> None:
        del failed

    async def moved(self, where: MovedError) -> None:
        raise where


class ClusterServers:
    """The nodes of a cluster, by ``host:port``; a key's is the primary of its slot."""

    publish: Final = "SPUBLISH"

    def __init__(self, client: ClusterClient) -> None:
        self._client: Final = client
        self._nodes: Final = client.nodes_manager

    def of(self, key: str) -> str | None:
        nodes = self._nodes.slots_cache.get(_slot(key))
        return nodes[0].name if nodes else None

    @asynccontextmanager
    async def connection(self, server: str) -> AsyncIterator[AbstractConnection]:
        node = self._nodes.nodes_cache.get(server)
        if node is None:
            raise RedisConnectionError("the node has left the cluster")
        connection = node.acquire_connection()
        try:
            async with _closed_on_failure(connection):
                await node.disconnect_if_needed(connection)
                await connection.connect()  # type: ignore[no-untyped-call]  # so in redis-py
                if await connection.can_read():  # the node closed it
                    await connection.disconnect()
                    await connection.connect()  # type: ignore[no-untyped-call]  # so in redis-py
                yield connection
        finally:
            node.release(connection)

    async def refresh(self, failed: str | None) -> None:
        self._client.recall()
        await self._nodes.initialize(last_failed_node_name=failed)

    async def moved(self, where: MovedError) -> None:
        await self._nodes.move_slot(where)


@lru_cache(maxsize=16_384)
def _slot(key: str) -> int:
    return key_slot(key.encode())


@asynccontextmanager
async def _closed_on_failure(connection: AbstractConnection) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        # Its answers are still to come, or it leads to a server that can do nothing with what it is sent.
        await connection.disconnect(nowait=True)
        raise
