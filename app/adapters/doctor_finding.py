"""What a check of the doctor found, and how checks are carried out: in order, each within a time limit, none stopping the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

Level = Literal["ok", "WARN", "FAIL"]

CHECK_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Finding:
    """One check's outcome. No text in it holds a secret or a service's own words.

    Attributes:
        advice: what to do; empty when all is well.
        blocks: the checks that follow in its group can tell nothing before this is put right.
    """

    level: Level
    name: str
    sentence: str
    advice: str = ""
    blocks: bool = False


@dataclass(frozen=True)
class Check:
    """``run`` is called once; what lies outside the program it tells in its finding, it does not raise it."""

    name: str
    run: Callable[[], Awaitable[Finding]]


def ok(name: str, sentence: str) -> Finding:
    """All is well."""
    return Finding("ok", name, sentence)


def warn(name: str, sentence: str, advice: str) -> Finding:
    """It works, but should be otherwise."""
    return Finding("WARN", name, sentence, advice)


def fail(name: str, sentence: str, advice: str, *, blocks: bool = False) -> Finding:
    """It does not work."""
    return Finding("FAIL", name, sentence, advice, blocks)


def not_checked(name: str, first: str) -> Finding:
    """It could not be looked at."""
    return warn(name, "not checked", f"put {first} right first, then run this again")


async def carried_out(checks: Iterable[Check], seconds: float = CHECK_SECONDS) -> AsyncIterator[Finding]:
    """The findings of a group of checks, in order. A check that takes longer than ``seconds`` is cancelled, and has failed."""
    blocked_by = ""
    for check in checks:
        if blocked_by:
            yield not_checked(check.name, blocked_by)
            continue
        finding = await _in_time(check, seconds)
        blocked_by = finding.name if finding.blocks else ""
        yield finding


async def _in_time(check: Check, seconds: float) -> Finding:
    try:
        async with asyncio.timeout(seconds):
            return await check.run()
    except TimeoutError:
        return fail(
            check.name,
            f"no answer within {seconds:g} s",
            "see whether its host can be reached from here: routes, security groups, VPC endpoints, mounts",
        )


async def in_thread(work: Callable[[], Finding]) -> Finding:
    """``work`` in a thread that nobody waits for at the program's end: a disk that hangs must not hang the program too."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Finding] = loop.create_future()

    def hand_over(finding: Finding) -> None:
        if not done.done():
            done.set_result(finding)

    def carry_out() -> None:
        finding = work()
        with suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(hand_over, finding)

    threading.Thread(target=carry_out, daemon=True).start()
    return await done
