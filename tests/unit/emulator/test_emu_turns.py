from __future__ import annotations

import asyncio
import time

import pytest

from loadtest.emulator.turns import Turns

TURN = 0.02


class Sleeper:
    """Stops the process as told, and says when it did."""

    def __init__(self) -> None:
        self.slept = 0
        self.log: list[str] = []

    def __call__(self, seconds: float) -> None:
        self.slept += 1
        self.log.append("sleep")
        time.sleep(seconds)


async def after_turns(sleeper: Sleeper, count: int) -> None:
    until = sleeper.slept + count
    for _ in range(10_000):
        if sleeper.slept >= until:
            return
        await asyncio.sleep(0)
    raise AssertionError("the turns have stopped")


@pytest.mark.parametrize("crowded", [False, True])
async def test_calls_come_in_the_order_of_their_times(crowded: bool) -> None:
    turns, made, done = Turns(asyncio.get_running_loop(), TURN), list[int](), asyncio.Event()
    turns.crowd(crowded=crowded)
    now = turns.time()
    turns.call_at(now + 0.09, done.set)
    for number in (3, 1, 2):
        turns.call_at(now + number * 0.025, lambda number=number: made.append(number))  # type: ignore[misc]
    turns.call_at(now + 0.01, lambda: made.append(0)).cancel()
    async with asyncio.timeout(10):
        await done.wait()
    assert made == [1, 2, 3]
    turns.close()


async def test_in_a_crowd_what_is_read_waits_for_the_turn_and_comes_before_its_calls() -> None:
    sleeper = Sleeper()
    turns = Turns(asyncio.get_running_loop(), TURN, sleep=sleeper)
    turns.work(lambda data: sleeper.log.append(data.decode()), b"at once")
    turns.crowd(crowded=True)
    turns.call_at(turns.time(), lambda: sleeper.log.append("call"))
    for data in (b"first", b"second"):
        turns.work(lambda data: sleeper.log.append(data.decode()), data)
    await after_turns(sleeper, 1)
    assert sleeper.log == ["at once", "first", "second", "call", "sleep"]
    turns.close()


async def test_what_was_put_off_is_done_before_what_comes_after_it() -> None:
    turns, done = Turns(asyncio.get_running_loop(), TURN), list[bytes]()
    turns.crowd(crowded=True)
    turns.work(done.append, b"audio")
    assert not done
    turns.catch_up()
    assert done == [b"audio"]
    turns.close()


async def test_in_a_crowd_a_call_comes_at_most_a_turn_early() -> None:
    sleeper = Sleeper()
    turns, made = Turns(asyncio.get_running_loop(), TURN, sleep=sleeper), list[float]()
    turns.crowd(crowded=True)
    when = turns.time() + 5 * TURN
    turns.call_at(when, lambda: made.append(turns.time()))
    while not made:
        await after_turns(sleeper, 1)
    assert when - TURN <= made[0]
    assert sleeper.slept >= 4
    turns.close()


async def test_without_a_crowd_the_process_never_sleeps() -> None:
    sleeper, done = Sleeper(), asyncio.Event()
    turns = Turns(asyncio.get_running_loop(), TURN, sleep=sleeper)
    turns.crowd(crowded=True)
    await after_turns(sleeper, 2)
    turns.crowd(crowded=False)
    await asyncio.sleep(0)
    slept = sleeper.slept
    turns.call_at(turns.time() + 0.05, done.set)
    async with asyncio.timeout(10):
        await done.wait()
    assert sleeper.slept == slept


async def test_a_call_that_fails_stops_no_turn() -> None:
    sleeper, loop = Sleeper(), asyncio.get_running_loop()
    errors: list[str] = []
    loop.set_exception_handler(lambda _, context: errors.append(str(context["exception"])))
    turns = Turns(loop, TURN, sleep=sleeper)
    turns.crowd(crowded=True)

    def fail() -> None:
        raise ValueError("so")

    turns.call_at(turns.time(), fail)
    await after_turns(sleeper, 3)
    assert errors == ["so"]
    turns.close()


async def test_without_a_turn_there_is_no_crowd() -> None:
    sleeper, done = Sleeper(), list[bytes]()
    turns = Turns(asyncio.get_running_loop(), 0.0, sleep=sleeper)
    turns.crowd(crowded=True)
    turns.work(done.append, b"audio")
    assert done == [b"audio"]
    assert not sleeper.slept
    turns.close()
