"""Threads for blocking work on the disk: bounded, patient with cancellation, and failing as a store fails."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from typing import Final, TypeVar

from app.adapters.disk_calls import LockBusy
from app.adapters.disk_files import RootGone
from app.archive.store import StoreUnavailable

T = TypeVar("T")

_REASONS: Final = {
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
    errno.EROFS: "read_only",
    errno.EACCES: "forbidden",
    errno.EPERM: "forbidden",
}


class Abandoned(Exception):
    """The caller was cancelled; the work stops where nothing is visible yet. Never leaves ``DiskWorker.run``."""


class Gate:
    """Closed when the caller is cancelled. Work asks it at the last moment before its effect can be seen."""

    def __init__(self) -> None:
        self._closed = threading.Event()

    def close(self) -> None:
        """From now on ``pass_through`` raises."""
        self._closed.set()

    def pass_through(self) -> None:
        """Go on.

        Raises:
            Abandoned: see there.
        """
        if self._closed.is_set():
            raise Abandoned


class DiskWorker:
    """At most ``threads`` jobs run at once; further callers wait in turn, in their own coroutines: nothing is queued."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._turns = asyncio.Semaphore(threads)
        self._executor: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Take jobs."""
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="archive")

    async def close(self) -> None:
        """Let the jobs under way end, then give the threads back; callers that wait are turned away. May be called again."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        async with AsyncExitStack() as turns:
            turns.callback(executor.shutdown, wait=False)
            for _ in range(self._threads):
                await turns.enter_async_context(self._turns)

    async def run(self, key: str, job: Callable[[Gate], T]) -> T:
        """Do ``job`` in a thread, for the object ``key``.

        Cancelling closes the gate and then waits until the thread has let go: no work goes on behind its caller's back.

        Raises:
            StoreUnavailable: the disk refused, or ``close`` was called.
            Exception: whatever else ``job`` raises.
        """
        gate = Gate()
        async with self._turns:
            if self._executor is None:
                raise StoreUnavailable(key, "the store is closed", "closed")
            future = asyncio.get_running_loop().run_in_executor(self._executor, _translated, key, job, gate)
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError:
                gate.close()
                await _wait_out(future)
                raise
            return future.result()


async def _wait_out(future: asyncio.Future[T]) -> None:
    while not future.done():
        with suppress(asyncio.CancelledError):  # The first one is on its way up already.
            await asyncio.wait((future,))
    future.exception()  # Nobody will ask for it, and that is no mistake.


def _translated(key: str, job: Callable[[Gate], T], gate: Gate) -> T:
    try:
        return job(gate)
    except LockBusy as error:
        raise StoreUnavailable(key, "its lock is held elsewhere", "busy") from error
    except RootGone as error:
        raise StoreUnavailable(
            key, "the archive's folder is gone, or is another one now", "root_missing"
        ) from error
    except OSError as error:
        text = os.strerror(error.errno) if error.errno else "the disk refused"
        raise StoreUnavailable(key, text, _REASONS.get(error.errno or 0, "io_error")) from error
