"""Tasks behind a balancer on one Redis, one S3 and one Transcribe, each of which can be struck."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from redis import Redis

from app.config import Settings
from tests.chaos.ward.link import Link, Mode
from tests.support import haproxy, minio_server, redis_server
from tests.support.aws_emulator import Emulator, started
from tests.support.haproxy import COOKIE, HAProxy, free_port
from tests.support.redis_server import RedisServer
from tests.support.s3_served import ArchiveInS3
from tests.support.server import ServerProcess

DEPENDENCIES = ("redis", "s3", "engine")
REPLICA_SECONDS = 10.0


@dataclass
class Task:
    """A server process with cables of its own to what it depends on."""

    name: str
    port: int
    server: ServerProcess
    links: dict[str, Link]
    cables: AsyncExitStack

    @property
    def running(self) -> bool:
        return self.server.running


@dataclass
class Ward:
    """Made by ``opened``. ``token`` is good at every task; the tasks' logs lie in ``folder``.

    Attributes:
        tasks: those that were started and not taken away since, frozen ones too.
        told: what was done, with the seconds since ``began``, for a failure's text.
    """

    folder: Path
    random: Random
    balancer: HAProxy
    redis: RedisServer
    emulator: Emulator
    archive: ArchiveInS3
    settings: dict[str, str]
    replica: RedisServer | None = None
    token: str = ""
    tasks: dict[str, Task] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    _count: int = 0
    began: float = field(default_factory=time.monotonic)

    def tell(self, what: str) -> None:
        """Note what was done."""
        self.told.append(f"{time.monotonic() - self.began:6.1f} {what}")

    async def start(self) -> Task:
        """One more task, which the balancer knows when this returns."""
        name = f"t{self._count}"
        self._count += 1
        async with AsyncExitStack() as opening:
            links = {what: await opening.enter_async_context(self._link(what)) for what in DEPENDENCIES}
            port = free_port()
            server = self._server(name, port, links)
            await server.start()
            task = self.tasks[name] = Task(name, port, server, links, opening.pop_all())
        await asyncio.to_thread(self.balancer.register, name, port)
        self.tell(f"{name} started")
        return task

    async def kill(self, task: Task) -> None:
        """SIGKILL. The balancer finds out by itself, and is told a while later, by ``forget``."""
        self.tell(f"{task.name} killed")
        await task.server.kill()

    async def forget(self, task: Task) -> None:
        """Take a dead task out of the balancer."""
        del self.tasks[task.name]
        await asyncio.to_thread(self.balancer.deregister, task.name)
        await task.cables.aclose()

    async def terminate(self, task: Task) -> int:
        """SIGTERM; its exit status."""
        self.tell(f"{task.name} SIGTERM")
        status = await task.server.stop()
        self.tell(f"{task.name} ended with {status}")
        await self.forget(task)
        return status

    async def freeze(self, task: Task, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        self.tell(f"{task.name} SIGSTOP")
        task.server.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            task.server.process.send_signal(signal.SIGCONT)
            self.tell(f"{task.name} SIGCONT")

    async def set(self, what: str, mode: Mode, tasks: Iterable[Task] | None = None) -> None:
        """Change the cables of these tasks, of all by default, to ``redis``, ``s3`` or ``engine``."""
        chosen = [*(self.tasks.values() if tasks is None else tasks)]
        self.tell(f"{what} of {','.join(task.name for task in chosen)}: {mode.value}")
        for task in chosen:
            await task.links[what].set(mode)

    async def cut(self, what: str, mode: Mode, seconds: float, tasks: Iterable[Task] | None = None) -> None:
        """The same for a while."""
        chosen = [*(self.tasks.values() if tasks is None else tasks)]
        await self.set(what, mode, chosen)
        try:
            await asyncio.sleep(seconds)
        finally:
            await self.set(what, Mode.OPEN, [task for task in chosen if task.name in self.tasks])

    async def empty_redis(self) -> None:
        """Kill Redis and start it again with nothing in it."""
        self.tell("redis killed, empty")
        await asyncio.to_thread(self.redis.restart)

    async def fail_over(self) -> None:
        """Kill Redis; its replica takes its place, with what it had been sent by then."""
        assert self.replica is not None
        self.tell("redis fails over")
        self.redis.kill()
        self.redis, self.replica = self.replica, None
        await asyncio.to_thread(_follow, self.redis, None)
        for task in self.tasks.values():
            link = task.links["redis"]
            link.target = self.redis.socket_path
            await link.set(Mode.REFUSE)
            await link.set(Mode.OPEN)

    async def steady(self, seconds: float = 30.0) -> None:
        """Return when the balancer takes every task that is there for ready."""
        until = time.monotonic() + seconds
        while (up := await asyncio.to_thread(self.balancer.up)) != set(self.tasks):
            assert time.monotonic() < until, f"ready: {up} of {set(self.tasks)}; {self.told[-10:]}"
            await asyncio.sleep(0.1)

    def log(self) -> str:
        """What all tasks logged."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def _link(self, what: str) -> Link:
        return Link(self._target(what), self.random)

    def _target(self, what: str) -> Path | tuple[str, int]:
        if what == "redis":
            return self.redis.socket_path
        if what == "s3":
            return ("127.0.0.1", int(self.archive.server.url.rpartition(":")[2]))
        return ("127.0.0.1", self.emulator.port)

    def _server(self, name: str, port: int, links: dict[str, Link]) -> ServerProcess:
        # Taken only where the server knows it, so that this can be read beside an older one.
        sticky = {"sticky_cookie": COOKIE} if "sticky_cookie" in Settings.model_fields else {}
        settings = {
            "port": str(port),
            "task_id": name,
            "public_url": self.balancer.url,
            "redis_url": f"redis://127.0.0.1:{links['redis'].port}/0",
            "engine": "aws",
            "transcribe_endpoint": f"wss://localhost:{links['engine'].port}",
            **sticky,
            **self.settings,
        }
        served = self.archive.served(self.folder / "data", f"http://127.0.0.1:{links['s3'].port}", **settings)
        served.environment["SSL_CERT_FILE"] = str(self.emulator.authority)
        served.log_path = self.folder / f"{name}.log"
        return served


@asynccontextmanager
async def opened(
    folder: Path,
    random: Random,
    *,
    tasks: int = 2,
    streams: int = 1_000,
    starts: int = 100,
    replica: bool = False,
    **settings: str,
) -> AsyncIterator[Ward]:
    """A ward with so many tasks, and a Transcribe with these quotas; ``settings`` are the tasks'. Redis may have a replica.

    On leaving no process of it is left; the logs stay.
    """
    quotas = {"transcribe_streams": str(streams), "transcribe_starts": str(starts)}
    options = ("--max-streams", str(streams), "--max-starts-per-second", str(starts))
    async with AsyncExitStack() as stack:
        # Not the test's folder: the path of a unix socket has at most 107 bytes.
        short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ward-")))
        s3 = stack.enter_context(minio_server.running())
        program = shutil.which("redis-server")
        redis = stack.enter_context(redis_server.running(program, port=free_port() if replica else 0))
        emulator = stack.enter_context(started(folder, *options, "--key", f"{s3.access_key}:{s3.secret_key}"))
        balancer = stack.enter_context(haproxy.running(short))
        archive = await ArchiveInS3.new(s3)
        ward = Ward(folder, random, balancer, redis, emulator, archive, {**quotas, **settings})
        stack.push_async_callback(_close, ward)
        if replica:
            ward.replica = stack.enter_context(redis_server.running(program))
            _follow(ward.replica, redis.port)
        first = await ward.start()
        for _ in range(tasks - 1):
            await ward.start()
        ward.token = await first.server.token()
        await ward.steady()
        yield ward


def _follow(server: RedisServer, port: int | None) -> None:
    """Make it the replica of the server at a port, and wait until it is; or a primary."""
    with Redis(unix_socket_path=str(server.socket_path)) as client:
        client.replicaof("127.0.0.1" if port else "NO", str(port or "ONE"))
        until = time.monotonic() + REPLICA_SECONDS
        while port and client.info("replication")["master_link_status"] != "up":
            assert time.monotonic() < until, "the replica does not follow"
            time.sleep(0.05)


async def _close(ward: Ward) -> None:
    for task in [*ward.tasks.values()]:
        if task.running:
            await task.server.kill()
        await task.cables.aclose()
