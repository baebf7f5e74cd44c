"""A decoding process as the server sees it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final, Protocol, cast

import audio
from audio.engine import Unavailable
from audio.engines.pocketsphinx_wire import BEGIN, NUMBER, Message, PipeOutOfStep, ReportReader, encode_order

_MODULE: Final = "audio.engines.pocketsphinx_worker"
_ROOT: Final = str(Path(audio.__file__).resolve().parent.parent)


class Occupant(Protocol):
    """The stream that has a worker."""

    def receive(self, message: Message) -> None:
        """Take a message of the worker."""

    def fail(self, error: Unavailable) -> None:
        """The worker is gone; what it said before can still be read."""


class Worker(asyncio.SubprocessProtocol):
    """One process and the stream that has it now, if any."""

    def __init__(self) -> None:
        self.stream: Occupant | None = None
        self.alive = True
        self.gone = asyncio.Event()
        self._reader = ReportReader()
        self._number = 0
        self._transport: asyncio.SubprocessTransport | None = None

    async def start(self) -> None:
        """Start the process; it answers once its model is loaded.

        Raises:
            Unavailable: the system gives no process.
        """
        try:
            await asyncio.get_running_loop().subprocess_exec(
                lambda: self,
                sys.executable,
                "-m",
                _MODULE,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                cwd=_ROOT,
                # Ctrl-C at the terminal is for the server, which still wants the last finals.
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable("worker_not_started", f"no process: {error.strerror}") from error
        finally:
            if self._transport is None:
                self._die()
                self.gone.set()

    def begin(self, stream: Occupant) -> None:
        """Give this worker to a stream; reports of the one before are stale from now on."""
        if not self.alive:
            stream.fail(Unavailable("worker_died", "the decoding process ended"))
            return
        self._number += 1
        self.stream = stream
        self.order(BEGIN, NUMBER.pack(self._number))

    def order(self, kind: bytes, payload: bytes = b"") -> None:
        """Write an order; bounded by the stream's window. Nothing happens when the process is gone."""
        if self.alive and self._transport is not None:
            pipe = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))
            pipe.write(encode_order(kind, payload))

    def kill(self) -> None:
        """End the process and tell its stream. Idempotent."""
        if self._transport is not None:
            self._transport.close()
        self._die()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        if not self.alive:
            self._transport.close()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        del fd
        try:
            for report in self._reader.feed(data):
                if self.stream is not None and report.stream == self._number:
                    self.stream.receive(report.message)
        except PipeOutOfStep:
            self.kill()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        del fd, exc
        self.kill()

    def process_exited(self) -> None:
        self.kill()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._die()
        self.gone.set()

    def _die(self) -> None:
        self.alive = False
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.fail(Unavailable("worker_died", "the decoding process ended"))
