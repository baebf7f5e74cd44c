"""How a Redis client is built, what every call to it has in common: a time limit, and scripts that Redis may have forgotten."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from app.config.values import cluster_addresses

SCHEMES: Final = ("redis", "rediss", "unix")
MAX_CONNECTIONS: Final = 32
CONNECT_SECONDS: Final = 1.0
HANGING_SECONDS: Final = 0.2
"""The node of a cluster that had not answered a call for so long when it was cut off may hang."""

FAILURES: Final = (RedisError, RedisClusterException, OSError)
"""What a call may fail with; a time limit that was reached is an OSError too."""

Word = str | bytes | int | float
"""A word of a command."""


def redis_client(url: str, *, max_connections: int = MAX_CONNECTIONS) -> Redis:
    """A client with a bounded pool; it connects on the first call, and ``aclose`` closes the pool with it.

    A call that finds the pool empty waits for a connection, so each call is made inside ``time_limit``; there is no
    socket timeout besides it (redis-py's takes a task for every command, and on Python 3.11 ``asyncio.wait_for``
    can lose a cancellation). Nothing is sent twice: whether a repeat is harmless only the caller knows. A
    subscription holds its connection, so subscribers get a client of their own. Answers are bytes.

    The name in the URL is resolved anew for each connection, and connections to a server that refuses a command
    are dropped: so the name may follow the primary when it moves.

    Args:
        url: ``redis://``, ``rediss://`` (the server's certificate is checked) or ``unix://`` with a path; options
            in its query are redis-py's and win over those set here.
        max_connections: how many connections at most are open at once.

    Raises:
        ValueError: another scheme; the text does not repeat the URL, which may hold a password.
    """
    if urlsplit(url).scheme not in SCHEMES:
        raise ValueError("a Redis URL begins with redis://, rediss:// or unix://")
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=None,
        socket_timeout=None,
        socket_connect_timeout=CONNECT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        driver_info=None,
    )
    return _Server.from_pool(pool)


def cluster_client(url: str, *, max_connections: int = MAX_CONNECTIONS) -> ClusterClient:
    """A client of a cluster, as ``redis_client`` is one of a server; ``aclose`` closes all its connections.

    Who keeps connections of its own to the nodes (``redis_servers``) has a client for itself: this one closes all of them
    when it has to look for the nodes anew. It finds them through those of the URL, and again after each failure: through all that it knows by then, and those
    of the URL, which may be names that lead elsewhere now. A command is sent again only where a node said that it did
    not carry it out (MOVED, ASK, TRYAGAIN). A call that finds no connection free fails.

    Args:
        url: ``redis+cluster://`` or ``rediss+cluster://`` with addresses ``host:port`` separated by commas; else as there.
        max_connections: how many calls at most are under way at once.

    Raises:
        ValueError: the URL is none of a cluster.
    """
    addresses = cluster_addresses(url)
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    one = parts._replace(scheme=parts.scheme.partition("+")[0], netloc=f"{user}{at}{addresses[0][0]}")
    options: dict[str, Any] = dict(parse_url(one.geturl()))
    for name in ("host", "port", "db"):
        options.pop(name, None)
    return ClusterClient(
        startup_nodes=[ClusterNode(host.strip("[]"), port) for host, port in addresses],
        ssl=options.pop("connection_class", None) is not None,
        calls=max_connections,
        max_connections=2 * max_connections,
        socket_timeout=None,
        socket_connect_timeout=CONNECT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        reinitialize_steps=0,
        protocol=2,
        driver_info=None,
        **options,
    )


def any_client(url: str) -> Client:
    """The client that the URL asks for: see the two above."""
    return cluster_client(url) if urlsplit(url).scheme.endswith("+cluster") else redis_client(url)


@asynccontextmanager
async def time_limit(seconds: float, error: Callable[[str], Exception]) -> AsyncIterator[None]:
    """Give the calls inside ``seconds`` altogether, and turn whatever Redis fails with into ``error``.

    ``error`` gets the failure's kind, never its text. A call that is cut off (here or by cancelling the task) closes
    its connection, so that a late answer is not taken for another call's.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except FAILURES as failure:
        raise error(type(failure).__name__) from failure


class RedisScript:
    """A script, called by its hash, and sent whole to a Redis that does not know it (any more)."""

    def __init__(self, text: str) -> None:
        self.text: Final = text
        self.sha: Final = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, client: Client, keys: Sequence[str], args: Sequence[Word]) -> Any:
        """Run it; ``keys`` are not empty and of one slot of a cluster."""
        words = [len(keys), *keys, *args]
        try:
            return await client.execute_command("EVALSHA", self.sha, *words)  # type: ignore[no-untyped-call,unused-ignore]
        except NoScriptError:
            return await client.execute_command("EVAL", self.text, *words)  # type: ignore[no-untyped-call,unused-ignore]


class _Server(Redis):
    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except NoScriptError:
            raise
        except ResponseError:
            # Perhaps it is a replica by now: what is connected stays connected to the server that it was.
            await self.connection_pool.disconnect(inuse_connections=False)
            raise


class ClusterClient(RedisCluster):
    """See ``cluster_client``."""

    def __init__(self, *, calls: int, **options: Any) -> None:
        super().__init__(**options)
        self._named = dict(self.nodes_manager.startup_nodes)
        self._turns = asyncio.Semaphore(calls)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """As redis-py has it, which refuses where no connection is free: here a call waits.

        And it does not learn from a call that was cut off: here the nodes are asked anew who has what before the next one.
        """
        async with self._turns:
            began = asyncio.get_running_loop().time()
            try:
                # redis-py would look for a command's keys before it has learnt of commands, once ``refresh`` has found the nodes.
                await self.initialize()
                return await super().execute_command(*args, **options)
            except asyncio.CancelledError:
                if asyncio.get_running_loop().time() - began >= HANGING_SECONDS:
                    self._initialize = True
                raise

    async def initialize(self, *args: Any, **options: Any) -> RedisCluster:
        """As redis-py has it, which asks whoever it knows."""
        self.recall()
        return await super().initialize(*args, **options)

    async def aclose(self) -> None:
        """Close every connection; redis-py closes none before the first call, or after one that failed."""
        await super().aclose()
        await self.nodes_manager.aclose()
        await self.nodes_manager.aclose("startup_nodes")
        for node in self._named.values():
            await node.disconnect()

    def recall(self) -> None:
        """Know the nodes of the URL again: redis-py forgets them as soon as it is told of others."""
        for name, node in self._named.items():
            self.nodes_manager.startup_nodes.setdefault(name, node)


Client = Redis | ClusterClient
