"""The client under trouble: a server that hangs, dies or comes back, calls that are cancelled, a pool that is full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection

from app.adapters.redis_client import ClusterClient, any_client, redis_client, time_limit
from tests.support.redis_server import RedisServer, running


class Unavailable(Exception):
    pass


@pytest.fixture
def server(need: Callable[[str], Path]) -> Iterator[RedisServer]:
    with running(str(need("redis-server"))) as server:
        yield server


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    client = redis_client(server.url, max_connections=2)
    yield client
    await client.aclose()


async def ask(client: Redis, text: str, seconds: float = 5.0) -> str:
    async with time_limit(seconds, Unavailable):
        answer = await client.echo(text)
    assert isinstance(answer, bytes)
    return answer.decode()


@pytest.mark.parametrize("url", ["http://:secret@host/", "redis+other://:secret@host", "secret", ""])
def test_another_scheme_is_refused_without_repeating_the_url(url: str) -> None:
    with pytest.raises(ValueError, match="redis://") as refused:
        redis_client(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["redis://u:p@127.0.0.1:6379/3", "rediss://127.0.0.1/", "unix:///tmp/redis.sock"]
)
async def test_the_schemes_of_the_settings_are_taken_and_nothing_is_opened_yet(url: str) -> None:
    await redis_client(url).aclose()


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_a_cluster_is_named_by_its_nodes_and_options_hold_for_all(scheme: str) -> None:
    url = f"{scheme}+cluster://me:secret@127.0.0.1:7000,127.0.0.2:7001/?client_name=x"
    client = any_client(url)
    assert isinstance(client, ClusterClient)
    nodes = client.nodes_manager.startup_nodes
    assert set(nodes) == {"127.0.0.1:7000", "127.0.0.2:7001"}
    for node in nodes.values():
        options = node.connection_kwargs
        assert (options["username"], options["password"], options["client_name"]) == ("me", "secret", "x")
        assert (node.connection_class is SSLConnection) == (scheme == "rediss")
    await client.aclose()


@pytest.mark.parametrize("url", ["redis+cluster://:secret@", "redis+cluster://a:secret"])
def test_a_url_that_names_no_nodes_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as refused:
        any_client(url)
    assert "secret" not in str(refused.value)


async def test_a_server_that_is_not_there_fails_within_the_limit(tmp_path: Path) -> None:
    client = redis_client(f"unix://{tmp_path}/none.sock")
    with pytest.raises(Unavailable) as failed:
        await ask(client, "x", 0.5)
    assert str(tmp_path) not in str(failed.value)
    await client.aclose()


async def test_a_server_that_hangs_costs_the_limit_and_no_more(server: RedisServer, client: Redis) -> None:
    await ask(client, "warm")
    server.pause()
    try:
        started = time.monotonic()
        results = await asyncio.gather(*(ask(client, "x", 0.2) for _ in range(20)), return_exceptions=True)
        assert time.monotonic() - started < 1.5  # one after the other they would take 2
    finally:
        server.resume()
    assert all(isinstance(result, Unavailable) for result in results)
    assert await ask(client, "again") == "again"


async def test_a_cancelled_call_leaves_no_answer_for_the_next_one(client: Redis) -> None:
    async def cancelled_after(turns: int) -> None:
        call = asyncio.ensure_future(ask(client, "old"))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])

    for turns in range(40):
        await cancelled_after(turns)
        assert await ask(client, f"new {turns}") == f"new {turns}"


async def test_cancelled_calls_give_their_connections_back(server: RedisServer, client: Redis) -> None:
    server.pause()
    try:
        calls = [asyncio.ensure_future(ask(client, f"old {number}")) for number in range(10)]
        await asyncio.sleep(0.05)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
    finally:
        server.resume()
    answers = await asyncio.gather(*(ask(client, str(number)) for number in range(20)))
    assert answers == [str(number) for number in range(20)]


async def test_the_pool_is_bounded_and_calls_wait_their_turn(server: RedisServer, client: Redis) -> None:
    await asyncio.gather(*(ask(client, "x") for _ in range(50)))
    async with time_limit(5.0, Unavailable):
        connections = await client.client_list()
    assert len(connections) <= 2


async def test_after_a_restart_the_first_call_is_served_on_a_new_connection(
    server: RedisServer, client: Redis
) -> None:
    await ask(client, "before")
    server.kill()
    with pytest.raises(Unavailable):
        await ask(client, "down", 0.5)
    server.start()
    assert await ask(client, "after") == "after"


async def test_an_error_of_a_command_is_unavailability_too(client: Redis) -> None:
    with pytest.raises(Unavailable, match="ResponseError"):
        async with time_limit(5.0, Unavailable):
            await client.eval("return redis.error_reply('no')", 0)
