"""How fast an event reaches its observers: ``python -m loadtest.bench.fanout [--observers 200] [--seconds 30]``.

Starts a redis-server and a server on it, each a process of its own, and observes one clinic so many times. Beside them one owner
commits finals, and publishes partials, as a session's owner does in another task. Prints how long each took from before it was
committed to its arrival at each observer, by the clock of this process, which does both; and the CPU of the server for each
text frame that it sent. Exits 1 when an observer lacks a final or got one twice. The event loop of this process is in the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import psutil
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from app.adapters.local_keys import LocalKeys
from app.adapters.redis_batch import RedisBatch
from app.adapters.redis_client import redis_client
from app.adapters.redis_log import RedisEventLog
from app.adapters.redis_servers import servers_of
from app.events.log import LogUnavailable
from audio.transcript import CommittedFinal, Partial, Word
from audio.transcript import Final as Spoken
from tenants.clinic import ClinicId
from tenants.terms import SessionRef
from tests.support.redis_cluster import free_ports
from tests.support.redis_server import running
from tests.support.server import ServerProcess

REF: Final = SessionRef(ClinicId("demo"), "01890a5d-ac96-774b-bcce-b302099a8057")
PARTIALS_PER_FINAL: Final = 5
SETTLE_SECONDS: Final = 1.0
TEXT: Final = "the pain has been there since tuesday and it is worse at night"
_SEQ: Final = b'"seq":'
_PARTIAL: Final = b'"id":"p'


class Clock:
    """When each final and each partial was sent, by its number; and how long it took to each observer."""

    def __init__(self) -> None:
        self.sent: dict[tuple[bytes, int], float] = {}
        self.took: dict[bytes, list[float]] = {_SEQ: [], _PARTIAL: []}


class Observer(WSListener):  # type: ignore[misc,unused-ignore]
    """One socket; ``finals`` holds the ``seq`` of all that came."""

    def __init__(self, clock: Clock) -> None:
        self.finals: list[int] = []
        self.subscribed = asyncio.Event()
        self._clock = clock

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Take the time."""
        if frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
            return
        now, text = time.perf_counter(), frame.get_payload_as_bytes()
        self.subscribed.set()
        for mark in (_SEQ, _PARTIAL):
            _, found, rest = text.partition(mark)
            if found:
                number = int(rest[: len(rest) - len(rest.lstrip(b"0123456789"))])
                self._clock.took[mark].append(now - self._clock.sent[mark, number])
                if mark == _SEQ:
                    self.finals.append(number)
                return


def spoken(seq: int) -> CommittedFinal:
    """A final of twelve words."""
    words = tuple(Word(word, n * 5_000, n * 5_000 + 4_000, 0.9) for n, word in enumerate(TEXT.split()))
    return CommittedFinal(seq, 1, Spoken(f"r{seq}", 0, 60_000, TEXT, words, "en-US"))


async def speak(log: RedisEventLog, clock: Clock, finals: int, per_second: float) -> None:
    """Commit so many finals, with partials between them, in even time."""
    assert await log.announce(REF, 1, 0, "bench") is not None
    begin, pause = time.perf_counter(), 1 / per_second / (PARTIALS_PER_FINAL + 1)
    for step in range(finals * (PARTIALS_PER_FINAL + 1)):
        await asyncio.sleep(max(0.0, begin + step * pause - time.perf_counter()))
        if (step + 1) % (PARTIALS_PER_FINAL + 1):
            clock.sent[_PARTIAL, step] = time.perf_counter()
            log.partial(REF, 1, Partial(f"p{step}", 0, 60_000, TEXT))
        else:
            seq = step // (PARTIALS_PER_FINAL + 1) + 1
            clock.sent[_SEQ, seq] = time.perf_counter()
            await log.commit(REF, 1, [spoken(seq)])


def report(name: str, took: Sequence[float]) -> None:
    """Print percentiles in milliseconds."""
    ordered = sorted(took)
    p50, p99 = (ordered[int(len(ordered) * share)] * 1000 for share in (0.5, 0.99))
    print(
        f"{name}: {len(took)} deliveries, p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {ordered[-1] * 1000:.2f} ms"
    )


async def observe(stack: AsyncExitStack, server: ServerProcess, clock: Clock, count: int) -> list[Observer]:
    """So many observers of the clinic, all subscribed."""
    headers = {"Authorization": f"Bearer {await server.token()}", "Sec-WebSocket-Protocol": "kikitori.v1"}
    url, observers = f"ws{server.url.removeprefix('http')}/v1/events", []
    for _ in range(count):
        transport, listener = await ws_connect(lambda: Observer(clock), url, extra_headers=headers)
        assert isinstance(listener, Observer)
        stack.callback(transport.disconnect)
        await listener.subscribed.wait()
        observers.append(listener)
    return observers


def conclude(clock: Clock, observers: Sequence[Observer], finals: int, used: float) -> bool:
    """Print what was measured; whether every observer has everything."""
    report("finals", clock.took[_SEQ])
    report("partials", clock.took[_PARTIAL])
    sent = sum(len(took) for took in clock.took.values())
    print(f"the server: {used / sent * 1e6:.0f} µs of CPU for a delivery")
    whole = all(observer.finals == list(range(1, finals + 1)) for observer in observers)
    print("every observer has every final once and in order" if whole else "FINALS ARE MISSING OR DOUBLED")
    return whole


async def run(count: int, seconds: float, per_second: float) -> int:
    """Measure; the exit status."""
    clock, finals = Clock(), round(seconds * per_second)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kikitori-bench-")))
        redis = stack.enter_context(running(port=free_ports(1)[0]))
        url = f"redis://127.0.0.1:{redis.port}"
        server = await stack.enter_async_context(
            ServerProcess(folder / "data", engine="null", redis_url=url, max_clinic_observers=str(count))
        )
        client = redis_client(url)
        stack.push_async_callback(client.aclose)
        batch = RedisBatch(servers_of(client), LogUnavailable)
        log = RedisEventLog(batch, LocalKeys.in_folder(server.data_dir), commit_seconds=5.0)
        observers = await observe(stack, server, clock, count)
        before = cpu_seconds(server)
        async with asyncio.TaskGroup() as group:
            beside = group.create_task(batch.run())
            await speak(log, clock, finals, per_second)
            await asyncio.sleep(SETTLE_SECONDS)
            beside.cancel()
        used = cpu_seconds(server) - before
    print(
        f"{count} observers, {per_second:g} finals a second and {PARTIALS_PER_FINAL} partials for each, {seconds:g} s"
    )
    return 0 if conclude(clock, observers, finals, used) else 1


def cpu_seconds(server: ServerProcess) -> float:
    """What the server has used so far, user and system."""
    times = psutil.Process(server.process.pid).cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--observers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--finals-per-second", type=float, default=1.0)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(run(options.observers, options.seconds, options.finals_per_second)))


if __name__ == "__main__":
    main()
