"""CPU of the S3 store, against MinIO on loopback: ``python -m loadtest.bench.s3_store [--count 400] [--server moto]``.

Prints CPU milliseconds of this process per call, and calls a second. The hot path is one put of 160 KB per session in
5 s; its line also says what that is per second of audio. Plain HTTP: with TLS the content is not hashed for the
signature, but encrypted instead, which costs about the same.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

import pytest

from app.adapters.s3_store import S3Store
from tests.support import minio_server, moto_server
from tests.support.s3_archive import REGION, S3Server, new_place, sign_in

SEGMENT_BYTES = 160_000
SEGMENT_SECONDS = 5.0
AT_ONCE = 8
SERVERS: dict[str, Callable[[], AbstractContextManager[S3Server]]] = {
    "minio": minio_server.running,
    "moto": moto_server.running,
}


async def timed(name: str, count: int, call: Callable[[int], Awaitable[object]]) -> float:
    """Make ``count`` calls, ``AT_ONCE`` at a time; CPU milliseconds per call."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await call(number)

    began, cpu = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())
    spent, took = time.process_time() - cpu, time.perf_counter() - began
    each = spent / count * 1000
    print(f"{name:<26} {each:6.2f} ms CPU, {count / took:6.0f} a second")
    return each


async def drain(store: S3Store, prefix: str) -> None:
    """List all there is."""
    async for _ in store.list(prefix):
        pass


async def measure(server: S3Server, count: int, *, profile: bool) -> None:
    """Print everything."""
    place, body = await new_place(server), os.urandom(SEGMENT_BYTES)
    async with S3Store(
        place, region=REGION, endpoint=server.url, kms_key_of=lambda _: server.kms_key
    ) as store:
        await store.create("tokyo-1/warm/up", body)
        watch = cProfile.Profile()
        if profile:
            watch.enable()
        each = await timed("put 160 KB", count, lambda n: store.create(f"tokyo-1/s/{n:05d}", body))
        if profile:
            watch.disable()
            pstats.Stats(watch).sort_stats("tottime").print_stats(30)
        print(f"{'= per session':<26} {each / SEGMENT_SECONDS:6.2f} ms CPU per second of audio")
        await timed("get 160 KB", count, lambda n: store.read(f"tokyo-1/s/{n:05d}"))
        await timed("get 4 KB of it", count, lambda n: store.read(f"tokyo-1/s/{n:05d}", 100, 4_196))
        await timed(f"list {count}", 20, lambda _: drain(store, "tokyo-1/s/"))
        await timed("create again (the same)", count, lambda n: store.create(f"tokyo-1/s/{n:05d}", body))
        await timed("delete", count, lambda n: store.delete(f"tokyo-1/s/{n:05d}"))


def main() -> None:
    """Start a server, measure, stop it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--server", choices=SERVERS, default="minio")
    parser.add_argument("--profile", action="store_true", help="where the put's time goes")
    options = parser.parse_args()
    with SERVERS[options.server]() as server, pytest.MonkeyPatch.context() as patch:
        sign_in(patch, server)
        asyncio.run(measure(server, options.count, profile=options.profile))


if __name__ == "__main__":
    main()
