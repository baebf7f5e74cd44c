"""A redis-server that belongs to this process: started with it, ended with it, writing nothing to disk."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
import struct
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec

from app.adapters.redis_process import (
    ANSWER_SECONDS,
    RedisProcess,
    RedisStartFailed,
    ask,
    command_line,
    find_redis_server,
)

LOCK_FILE: Final = "redis.lock"
RECORD_FILE: Final = "redis.json"
MAX_MEMORY: Final = 256 * 1024 * 1024

_FOLDER_PREFIX: Final = "kikitori-redis-"
_SOCKET_NAME: Final = "s"
_SUN_PATH_MAX: Final = 107
_BACKOFF_SECONDS: Final = (0.1, 5.0)
_POLL_SECONDS: Final = 0.02

_log = logging.getLogger(__name__)


class EmbeddedRedisBusy(Exception):
    """Another process has an embedded Redis on this data folder. ``pid`` is that process, 0 if unknown."""

    def __init__(self, folder: Path, pid: int) -> None:
        super().__init__(
            f"process {pid or '(unknown)'} already runs an embedded Redis on {folder}; stop it, or let all processes "
            "that share this folder use one Redis of its own by setting KIKITORI_REDIS_URL"
        )
        self.pid = pid


class _Record(msgspec.Struct, frozen=True):
    """``redis.json``: where the server listens that is to be ended if we die without having done so.

    ``lock`` is the inode of the lock file: a copy of the data folder does not make a predecessor of whoever has it.
    """

    socket: str
    lock: int


class EmbeddedRedis:
    """Async context manager: inside it a server answers at ``url``, and nothing but this process is meant to use it.

    One data folder has one: the lock on ``redis.lock`` is held for life and the kernel lets go of it when we die, as it
    kills the server then (Linux). What is left over nevertheless is found in ``redis.json`` and ended at the next start.
    If the server dies it is started again, empty, on the same socket, for as long as it takes (``restarts`` counts).
    It evicts nothing: when ``max_memory`` bytes are full, writing commands fail.
    Enter and leave it in the same task. What is raised inside it leaves it unchanged.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        max_memory: int = MAX_MEMORY,
        program: Path | None = None,
        die_with_parent: bool = True,
    ) -> None:
        """Nothing happens before it is entered.

        Args:
            data_dir: holds the lock and the record; made if it is missing.
            max_memory: bytes that the server may hold.
            program: a redis-server to use instead of the one that is found.
            die_with_parent: have the kernel kill the server when the thread that entered this ends (Linux).
        """
        self._data_dir = data_dir
        self._max_memory = max_memory
        self._program = program
        self._die_with_parent = die_with_parent
        self._lock = -1
        self._socket = Path()
        self._process: RedisProcess | None = None
        self._tasks = asyncio.TaskGroup()
        self._supervisor: asyncio.Task[None] | None = None
        self.restarts = 0

    @property
    def socket_path(self) -> Path:
        """Where it listens; stays the same when the server is started again."""
        return self._socket

    @property
    def url(self) -> str:
        """The same, as redis-py takes it."""
        return f"unix://{self._socket}"

    async def __aenter__(self) -> EmbeddedRedis:
        """Start, and wait until the server answers.

        Raises:
            EmbeddedRedisBusy: see there.
            RedisStartFailed: there is no redis-server, or it does not come up.
            OSError: the data folder cannot be used.
        """
        self._lock = _take_lock(self._data_dir)
        try:
            await _end_leftover(self._data_dir, os.fstat(self._lock).st_ino)
            self._socket = _private_folder() / _SOCKET_NAME
            _write_record(self._data_dir, _Record(str(self._socket), os.fstat(self._lock).st_ino))
            await self._start()
        except BaseException:
            await self._clean_up()
            raise
        await self._tasks.__aenter__()
        self._supervisor = self._tasks.create_task(self._supervise())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server (within six seconds) and remove what was made for it, but for the lock file."""
        assert self._supervisor is not None
        self._supervisor.cancel()
        try:
            # A group that is told of an error wraps it. Cancellation it must know of: it may have caused it.
            if isinstance(error, asyncio.CancelledError):
                await self._tasks.__aexit__(kind, error, trace)
            else:
                await self._tasks.__aexit__(None, None, None)
        finally:
            await self._clean_up()

    async def _start(self) -> None:
        self._socket.unlink(missing_ok=True)
        program = self._program or find_redis_server()
        line = command_line(program, self._socket, self._max_memory, die_with_parent=self._die_with_parent)
        self._process = await RedisProcess.spawn(line, self._socket)
        await self._process.ready()

    async def _supervise(self) -> None:
        shortest, longest = _BACKOFF_SECONDS
        pause = shortest
        while True:
            assert self._process is not None
            started = time.monotonic()
            await self._process.ended()
            _log.warning("the embedded redis-server ended; starting it again, empty")
            if time.monotonic() - started > longest:
                pause = shortest
            await asyncio.sleep(pause)
            pause = min(longest, pause * 2)
            try:
                await self._start()
                self.restarts += 1
            except (RedisStartFailed, OSError) as error:
                _log.error("the embedded redis-server does not start: %s", error)
                await self._process.stop()

    async def _clean_up(self) -> None:
        try:
            if self._process is not None:
                await self._process.stop()
        finally:
            if self._socket != Path():
                _remove_folder(self._socket)
            (self._data_dir / RECORD_FILE).unlink(missing_ok=True)
            os.close(self._lock)


def _take_lock(data_dir: Path) -> int:
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).strip()
        os.close(fd)
        raise EmbeddedRedisBusy(data_dir, int(holder) if holder.isdigit() else 0) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def _private_folder() -> Path:
    # The path of a unix socket has 107 bytes at most, and a folder for temporary files can be far down.
    for base in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp below makes a private folder in it
        folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=base))
        if len(os.fsencode(folder / _SOCKET_NAME)) <= _SUN_PATH_MAX:
            return folder
        folder.rmdir()
    raise RedisStartFailed("no folder for temporary files has a path short enough for a unix socket")


def _remove_folder(path: Path) -> None:
    if not path.parent.name.startswith(_FOLDER_PREFIX):
        return  # A record that we did not write names no folder of ours.
    path.unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()


def _write_record(data_dir: Path, record: _Record) -> None:
    draft = data_dir / f".{RECORD_FILE}"
    draft.write_bytes(msgspec.json.encode(record))
    draft.replace(data_dir / RECORD_FILE)


async def _end_leftover(data_dir: Path, lock: int) -> None:
    """End the server of a predecessor that died. We hold the lock, so whoever wrote the record is gone."""
    try:
        record = msgspec.json.decode((data_dir / RECORD_FILE).read_bytes(), type=_Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return
    if record.lock != lock:
        return
    path = Path(record.socket)
    pid = _listener(path)
    if pid:
        _log.warning("ending the embedded redis-server that a predecessor left behind")
        await ask(path, "SHUTDOWN NOSAVE")
    for number in (signal.SIGTERM, signal.SIGKILL):
        if await _silent(path):
            break
        if pid > 0:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
    await _silent(path)
    _remove_folder(path)


def _listener(path: Path) -> int:
    """The process that listens there, -1 where the kernel does not say (only Linux does), 0 if there is none.

    So it is never a process that merely has the same number as one of long ago.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(ANSWER_SECONDS)
        try:
            peer.connect(str(path))
        except OSError:
            return 0
        if sys.platform != "linux":
            return -1
        pid, _, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(pid)


async def _silent(path: Path) -> bool:
    for _ in range(int(ANSWER_SECONDS / _POLL_SECONDS)):
        if not _listener(path):
            return True
        await asyncio.sleep(_POLL_SECONDS)
    return False
