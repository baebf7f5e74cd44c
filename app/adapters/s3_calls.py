"""Calls to S3 and STS: bounded in number and time, tried again within a budget, failing as a store fails."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Container, Coroutine, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from app.adapters.s3_refusals import CALL_FAILURES, Refusal, refusal_of
from app.archive.store import StoreUnavailable

T = TypeVar("T")
Answer = dict[str, Any]
"""What botocore made of an answer; ``Body`` is read already, to bytes."""

BYTES_PER_SECOND: Final = 1_048_576
"""A connection that carries less than this is too slow to wait for: each byte adds to an attempt's time limit."""

_RETRY_COST: Final = 5.0
_SUCCESS_GAIN: Final = 1.0


class Signing(Protocol):
    """Credentials as aiobotocore's signer asks for them, at each request."""

    async def get_frozen_credentials(self) -> Any:
        """An object with ``access_key``, ``secret_key`` and ``token``."""


SIGN_WITH: Final[ContextVar[Signing | None]] = ContextVar("s3_sign_with", default=None)
"""Whose credentials the call under way is signed with; None is the client's own. ``s3_client`` heeds it."""


@dataclass(frozen=True)
class S3Limits:
    """Time limits and sizes of an S3 store.

    Attributes:
        connections: open connections, and so calls under way, at most; further ones wait within their budget.
        connect_seconds: for a connection with TLS.
        read_seconds: without a byte from the other side.
        attempt_seconds: one attempt, plus its bytes at ``BYTES_PER_SECOND``.
        budget_seconds: no attempt begins later than this after the call's beginning.
        pause_seconds: the n-th pause between attempts is random, up to this times 2^n ...
        pause_seconds_max: ... and never longer than this, unless the service asks for more.
        retry_tokens: all calls share so many; each further attempt takes 5, each success gives 1 back. While there
            are none, calls fail at once: a service that is down is not asked more often than there are new calls.
        settle_seconds: how long a cancelled write waits for the answer that is under way.
        part_bytes: above this a streamed body becomes a multipart upload of such parts; at least 5 MiB (S3's rule).
        parts_at_once: parts of one upload under way at once; two more are held. Bounds its memory.
    """

    connections: int = 64
    connect_seconds: float = 3.0
    read_seconds: float = 8.0
    attempt_seconds: float = 10.0
    budget_seconds: float = 12.0
    pause_seconds: float = 0.1
    pause_seconds_max: float = 3.0
    retry_tokens: int = 500
    settle_seconds: float = 10.0
    part_bytes: int = 8 * 1024 * 1024
    parts_at_once: int = 3


class Refused(Exception):
    """An answer that the caller expected and that is no failure of the store, by its ``s3_refusals`` reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Surroundings:
    """What calls need of the world; tests pass their own.

    Attributes:
        clock: monotonic, in seconds.
        wall: seconds since 1970.
        random: in [0, 1).
        sleep: waits.
        observe: told the reason of each attempt that failed and is tried again, for metrics.
    """

    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    random: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    observe: Callable[[str], None] = lambda _: None


class S3Calls:
    """Calls on one client. Not a queue: who waits for a connection waits in a coroutine of its own."""

    def __init__(self, client: Any, limits: S3Limits, around: Surroundings) -> None:
        self._client, self._limits, self._around = client, limits, around
        self._slots = asyncio.Semaphore(limits.connections)
        self._tokens = float(limits.retry_tokens)

    async def call(
        self,
        key: str,
        operation: str,
        params: Mapping[str, Any],
        *,
        sign_with: Signing | None = None,
        expect: Container[str] = (),
        settle: bool = False,
    ) -> Answer:
        """The answer to the client's method ``operation``; ``key`` is what errors name.

        Reasons in ``expect`` are answers to this caller, and not tried again. ``settle``: when cancelled, wait for the answer
        to the attempt under way (at most ``settle_seconds``), so that nothing appears behind the caller's back.

        Raises:
            Refused: see there.
            StoreUnavailable: everything else, after the budget where trying again might help.
        """
        deadline = self._around.clock() + self._limits.budget_seconds
        attempts = 0
        while True:
            attempts += 1
            outcome = await self._in_turn(operation, params, sign_with, settle=settle, deadline=deadline)
            if not isinstance(outcome, Refusal):
                self._tokens = min(self._tokens + _SUCCESS_GAIN, self._limits.retry_tokens)
                return outcome
            if outcome.reason in expect:
                raise Refused(outcome.reason)
            pause = self._pause(outcome, attempts, deadline)
            if pause is None:
                raise StoreUnavailable(key, f"{outcome.words} (attempts: {attempts})", outcome.reason)
            self._around.observe(outcome.reason)
            await self._around.sleep(pause)

    def _pause(self, refusal: Refusal, attempts: int, deadline: float) -> float | None:
        """Full jitter, or None where there is no further attempt."""
        if not refusal.again or self._tokens < _RETRY_COST:
            return None
        limits = self._limits
        longest = min(limits.pause_seconds_max, limits.pause_seconds * 2.0 ** min(attempts, 32))
        # What the service asked for is the least; the jitter keeps those that were told the same apart.
        pause = refusal.after + self._around.random() * longest
        if self._around.clock() + pause > deadline:
            return None
        self._tokens -= _RETRY_COST
        return pause

    async def _in_turn(
        self,
        operation: str,
        params: Mapping[str, Any],
        sign_with: Signing | None,
        *,
        settle: bool,
        deadline: float,
    ) -> Answer | Refusal:
        try:
            async with asyncio.timeout(max(0.0, deadline - self._around.clock())):
                await self._slots.acquire()
        except TimeoutError:
            return Refusal("timeout", "all connections to S3 are busy", False)
        try:
            attempt = self._attempt(operation, params, sign_with)
            return await (settled(attempt, self._limits.settle_seconds) if settle else attempt)
        finally:
            self._slots.release()

    async def _attempt(
        self, operation: str, params: Mapping[str, Any], sign_with: Signing | None
    ) -> Answer | Refusal:
        signer = SIGN_WITH.set(sign_with)
        try:
            async with asyncio.timeout(self._allowance(len(params.get("Body", b"")))) as limit:
                answer: Answer = await getattr(self._client, operation)(**params)
                if "Body" in answer:
                    seconds = self._allowance(int(answer.get("ContentLength", 0)))
                    limit.reschedule(asyncio.get_running_loop().time() + seconds)
                    # Past botocore's own check of the checksum, which takes a composite one for the content's.
                    answer["Body"] = await answer["Body"].raw_stream.read()
                return answer
        except CALL_FAILURES as error:
            return refusal_of(operation, error)
        finally:
            SIGN_WITH.reset(signer)

    def _allowance(self, size: int) -> float:
        return self._limits.attempt_seconds + size / BYTES_PER_SECOND


async def settled(work: Coroutine[Any, Any, T], seconds: float) -> T:
    """``work``'s result. When cancelled meanwhile, let it go on to its end for at most ``seconds``, then end with it.

    No task outlives the call.
    """
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            with suppress(asyncio.CancelledError):  # A second one; the first is on its way up already.
                await asyncio.wait((task,), timeout=seconds)
            raise
    return task.result()
