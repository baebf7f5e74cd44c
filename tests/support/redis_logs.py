"""The event log on Redis, at work: with its batch running, on a client of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from app.adapters.redis_batch import RedisBatch
from app.adapters.redis_client import Client, any_client
from app.adapters.redis_log import RedisEventLog
from app.adapters.redis_servers import servers_of
from app.events.log import LogUnavailable
from tenants.keys import Sealer


@asynccontextmanager
async def batching(client: Client, **options: Any) -> AsyncIterator[RedisBatch]:
    """A batch that runs, for logs."""
    batch = RedisBatch(servers_of(client), LogUnavailable, **options)
    running = asyncio.create_task(batch.run())
    try:
        yield batch
    finally:
        running.cancel()
        await asyncio.wait([running])
    assert running.cancelled()


@asynccontextmanager
async def event_log(url: str, sealer: Sealer, **options: Any) -> AsyncIterator[RedisEventLog]:
    """The log of one task. ``options`` are RedisEventLog's."""
    async with aclosing(any_client(url)) as client, batching(client) as batch:
        # A busy machine may take longer than the 100 ms of a production owner, who has another way to commit.
        yield RedisEventLog(batch, sealer, **{"commit_seconds": 5.0, **options})
