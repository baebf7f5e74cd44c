from __future__ import annotations

import asyncio

import pytest

from audio.feeding import Feed, Flushes
from audio.ring import Ring
from tests.support.virtual_time import run

CAPACITY = 1000


class World:
    def __init__(self, *, may_let_go: bool = True) -> None:
        self.now = 0.0
        self.ring = Ring(capacity=CAPACITY)
        self.reader = self.ring.add_reader("transcriber", 0)
        self.feed = Feed(
            self.ring, self.reader, clock=lambda: self.now, lag=500, margin=100, may_let_go=may_let_go
        )

    def held_at(self, now: float) -> bool:
        self.now = now
        self.feed.look()
        return self.reader.holds

    def write(self, samples: int) -> None:
        for _ in range(samples // 100):
            self.ring.write(bytes(200))


def test_a_blocked_feed_lets_go_after_a_second_past_half_a_ring() -> None:
    world = World()
    world.write(600)
    assert [world.held_at(now) for now in (0.0, 0.9, 1.1)] == [True, True, False]
    assert world.feed.overtaken()


def test_a_feed_that_may_not_let_go_never_does() -> None:
    world = World(may_let_go=False)
    world.write(600)
    assert all(world.held_at(now) for now in (0.0, 100.0))
    world.feed.leave()
    assert world.reader.holds


def test_standing_on_overwritten_ground_skips_to_a_margin_after_the_oldest_sample() -> None:
    world = World()
    world.feed.leave()
    world.write(2500)
    assert world.feed.stand(200) == (200, 1600)
    assert world.reader.holds
    assert world.feed.position == world.feed.furthest == 1600


def test_standing_back_for_a_replay_skips_nothing() -> None:
    world = World()
    world.write(600)
    world.feed.sent(600)
    assert world.feed.stand(250) is None
    assert (world.feed.position, world.feed.furthest) == (250, 600)
    assert not world.feed.overtaken()


def test_what_was_read_stays_although_the_writer_goes_on() -> None:
    world = World()
    world.ring.write(b"\x01\x02" * 300)
    (samples,) = world.feed.read(300)
    world.feed.leave()
    world.write(2000)
    assert bytes(samples) == b"\x01\x02" * 300


def test_a_flush_is_due_once_all_before_it_was_sent_and_is_asked_once() -> None:
    flushes = Flushes()
    assert not flushes.due(0, 0)
    flushes.ask(100)
    assert not flushes.due(90, 0)
    assert flushes.border(90, 300) == 100
    assert flushes.border(100, 300) == 300
    assert not flushes.due(100, 100)
    assert flushes.due(100, 50)
    flushes.sent(100)
    assert not flushes.due(120, 50)
    assert flushes.answer() == 100
    assert flushes.answer() is None


def test_what_one_stream_did_not_answer_is_asked_of_the_next() -> None:
    flushes = Flushes()
    flushes.ask(100)
    flushes.sent(100)
    flushes.begin()
    assert flushes.answer() is None
    assert flushes.due(100, 0)


@pytest.mark.parametrize("settles", [True, False])
def test_waiting_ends_when_all_is_answered_or_settled(settles: bool) -> None:
    async def main() -> None:
        flushes = Flushes()
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(flushes.wait(100, 5.0))
            await asyncio.sleep(1)
            if not settles:
                flushes.sent(100)
                flushes.answer()
            flushes.wake(100 if settles else 0)
            assert await waiting

    run(main())


def test_waiting_ends_with_its_time_and_when_all_is_given_up() -> None:
    async def main() -> None:
        flushes = Flushes()
        assert not await flushes.wait(100, 5.0)
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(flushes.wait(100, 5.0))
            await asyncio.sleep(1)
            flushes.give_up()
            assert not await waiting

    run(main())
