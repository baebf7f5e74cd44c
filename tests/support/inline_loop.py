"""Virtual time for code that uses threads: their work is done in the loop, at a moment of the clock that the test chooses.

So a test with a real store or codec is as repeatable as one without, and may still try out many interleavings.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

from tests.support.virtual_time import VirtualLoop

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class InlineLoop(VirtualLoop):
    """``delay`` gives the virtual seconds after which a thread's work is done, all of it in one moment."""

    def __init__(self, delay: Callable[[], float]) -> None:
        super().__init__()
        self._delay = delay

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        del executor
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - a thread's failure is its future's
                if not future.cancelled():
                    future.set_exception(error)
            else:
                if not future.cancelled():
                    future.set_result(result)

        self.call_later(self._delay(), work)
        return future


def run(main: Coroutine[Any, Any, T], delay: Callable[[], float] = lambda: 0.0) -> T:
    """Run to the end in virtual time; fails when a task is left over."""

    async def checked() -> T:
        result = await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left over: {left}"
        return result

    with asyncio.Runner(loop_factory=lambda: InlineLoop(delay)) as runner:
        return runner.run(checked())


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test by ``run``."""

    @functools.wraps(test)
    def synchronous(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return synchronous
