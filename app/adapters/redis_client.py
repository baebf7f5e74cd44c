"""How a Redis client is built, and the time limit that every call to it has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

SCHEMES: Final = ("redis", "rediss", "unix")
MAX_CONNECTIONS: Final = 32
CONNECT_SECONDS: Final = 1.0


def redis_client(url: str, *, max_connections: int = MAX_CONNECTIONS) -> Redis:
    """A client with a bounded pool; it connects on the first call, and ``aclose`` closes the pool with it.

    A call that finds the pool empty waits for a connection, so each call is made inside ``time_limit``; there is no
    socket timeout besides it (redis-py's takes a task for every command, and on Python 3.11 ``asyncio.wait_for``
    can lose a cancellation). Nothing is sent twice: whether a repeat is harmless only the caller knows. A
    subscription holds its connection, so subscribers get a client of their own. Answers are bytes.

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
    return Redis.from_pool(pool)


@asynccontextmanager
async def time_limit(seconds: float, error: Callable[[str], Exception]) -> AsyncIterator[None]:
    """Give the calls inside ``seconds`` altogether, and turn whatever Redis fails with into ``error``.

    ``error`` gets the failure's kind, never its text. A call that is cut off (here or by cancelling the task) closes
    its connection, so that a late answer is not taken for another call's.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except (RedisError, OSError) as failure:
        raise error(type(failure).__name__) from failure
