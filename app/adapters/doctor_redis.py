"""The doctor's checks of Redis."""

from __future__ import annotations

import asyncio
import re
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import urlsplit

from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterPubSub
from redis.exceptions import RedisClusterException, RedisError

from app.adapters.doctor_finding import Check, Finding, carried_out, fail, ok
from app.adapters.doctor_refusals import of_redis
from app.adapters.redis_client import Client, ClusterClient, any_client
from app.adapters.redis_process import RedisStartFailed, find_redis_server
from app.config.values import cluster_addresses

OLDEST: Final = (6, 2)
OLDEST_CLUSTER: Final = (7, 0)
"""Sharded channels came with it."""

_SECONDS: Final = 5.0
_SCRIPT: Final = """
redis.call('SET', KEYS[1], ARGV[1], 'PX', 10000)
local found = redis.call('GET', KEYS[1])
redis.call('DEL', KEYS[1])
return found
"""


async def redis_findings(url: str, new_id: Callable[[], str]) -> AsyncIterator[Finding]:
    """Whether the Redis at ``url`` is reachable and as it must be; ``embedded``: which one would be started."""
    if url == "embedded":
        async for finding in carried_out([Check("redis", _embedded)]):
            yield finding
        return
    async with aclosing(any_client(url)) as client:
        probe = _Probe(client, url, f"kikitori:doctor:{new_id()}")
        async for finding in carried_out(probe.checks()):
            yield finding


class _Probe:
    """``key`` is a name that nobody else uses."""

    def __init__(self, client: Client, url: str, key: str) -> None:
        self._client, self._url, self._key = client, url, key
        self._clustered = isinstance(client, ClusterClient)

    def checks(self) -> list[Check]:
        """In order: without the first the others tell nothing."""
        return [
            self._check("redis", "PING", self._reach),
            self._check("redis version", "INFO", self._version),
            self._check("redis memory", "INFO", self._policy),
            self._check("redis scripts", "EVAL", self._scripts),
            self._check("redis pub/sub", "SSUBSCRIBE" if self._clustered else "SUBSCRIBE", self._channels),
        ]

    def _check(self, name: str, command: str, work: Callable[[str], Awaitable[Finding]]) -> Check:
        async def run() -> Finding:
            try:
                async with asyncio.timeout(_SECONDS):
                    return await work(name)
            except RedisClusterException as error:
                return _no_cluster(name, command, error)
            except (RedisError, OSError) as error:  # A timeout is an OSError.
                return of_redis(name, command, error)

        return Check(name, run)

    async def _reach(self, name: str) -> Finding:
        await self._ask("PING")
        if self._clustered:
            nodes = ", ".join(f"{host}:{port}" for host, port in cluster_addresses(self._url))
            return ok(name, f"the cluster of {nodes} answers")
        parts = urlsplit(self._url)
        return ok(name, f"{parts.hostname}:{parts.port or 6379} answers")

    async def _version(self, name: str) -> Finding:
        info = await self._info()
        if info.get("cluster_enabled") == 1 and not self._clustered:
            return fail(name, "it is a Redis Cluster", "write redis+cluster:// in KIKITORI_REDIS_URL")
        oldest = OLDEST_CLUSTER if self._clustered else OLDEST
        return version_finding(name, str(info.get("redis_version", "")), oldest)

    async def _policy(self, name: str) -> Finding:
        return policy_finding(name, str((await self._info()).get("maxmemory_policy", "")))

    async def _scripts(self, name: str) -> Finding:
        found = await self._ask("EVAL", _SCRIPT, "1", self._key, "1")
        if found != b"1":
            return fail(name, "a script gave a wrong answer", "see that it is Redis 6.2 or newer")
        return ok(name, "Lua scripts run and may write")

    async def _channels(self, name: str) -> Finding:
        async with self._client.pubsub() as channel:
            heard = await self._published(channel)
        if heard is None or heard.get("data") != b"1":
            return fail(
                name,
                "what was published did not arrive",
                "see that nothing between here and it filters Pub/Sub",
            )
        return ok(name, "what is published arrives")

    async def _published(self, channel: PubSub | ClusterPubSub) -> Any:
        if isinstance(channel, ClusterPubSub):
            await channel.ssubscribe(self._key)
            await channel.get_sharded_message(timeout=_SECONDS)
            await self._ask("SPUBLISH", self._key, "1")
            return await channel.get_sharded_message(timeout=_SECONDS)
        await channel.subscribe(self._key)
        await channel.get_message(timeout=_SECONDS)
        await self._ask("PUBLISH", self._key, "1")
        return await channel.get_message(timeout=_SECONDS)

    async def _ask(self, *command: str) -> Any:
        return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def _info(self) -> dict[str, Any]:
        found: dict[str, Any] = await self._client.info()
        return found


def _no_cluster(name: str, command: str, error: RedisClusterException) -> Finding:
    if isinstance(error.__cause__, RedisError | OSError):
        return of_redis(name, command, error.__cause__)
    return fail(
        name,
        "it is no Redis Cluster, or one with slots that no node has",
        "see that KIKITORI_REDIS_URL names nodes of a cluster, and that CLUSTER INFO says cluster_state:ok there",
    )


async def _embedded() -> Finding:
    name = "redis"
    try:
        program = find_redis_server()
        process = await asyncio.create_subprocess_exec(
            str(program), "--version", stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
        )
        said, _ = await process.communicate()
    except RedisStartFailed as error:
        problem, _, advice = str(error).partition(": ")
        return fail(name, problem, advice)
    except OSError as error:
        return fail(name, f"redis-server cannot be started: {error.strerror}", "install Redis 6.2 or newer")
    found = re.search(rb"v=([0-9.]+)", said)
    version = found[1].decode() if found else ""
    judged = version_finding(name, version)
    return (
        ok(name, f"embedded: {program}, version {version}, would be started")
        if judged.level == "ok"
        else judged
    )


def version_finding(name: str, version: str, oldest: tuple[int, int] = OLDEST) -> Finding:
    """Whether ``version``, such as ``7.0.15``, is new enough."""
    wanted = "{}.{}".format(*oldest)
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        return fail(name, "it does not tell its version", f"use Redis {wanted} or newer")
    if (int(found[1]), int(found[2])) < oldest:
        return fail(name, f"version {version} is too old", f"use Redis {wanted} or newer")
    return ok(name, f"version {version}")


def policy_finding(name: str, policy: str) -> Finding:
    """Whether it refuses rather than forgets when it is full."""
    if policy == "noeviction":
        return ok(name, "when it is full it refuses, and forgets nothing (noeviction)")
    return fail(
        name,
        f"when it is full it forgets what sessions need (maxmemory-policy {policy or 'unknown'})",
        "set maxmemory-policy to noeviction, in the parameter group on ElastiCache",
    )
