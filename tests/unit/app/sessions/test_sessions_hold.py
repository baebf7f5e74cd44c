from __future__ import annotations

import asyncio

import pytest

from app.sessions.hold import Hold, Unconfirmed
from app.sessions.pulse import Pulse
from tests.support.inline_loop import in_virtual_time

WINDOW = 120.0


class Rig:
    def __init__(self) -> None:
        self.now, self.pulse = 0.0, Pulse()
        self.hold = Hold(self.pulse, lambda: self.now, WINDOW)

    def tick_until(self, end: float) -> None:
        while self.now < end:
            self.now += 0.25
            self.pulse.tick(self.now)


@in_virtual_time
async def test_it_is_sure_for_half_the_window_after_it_was_confirmed() -> None:
    rig = Rig()
    assert rig.hold.is_sure
    rig.tick_until(WINDOW / 2 - 1)
    assert rig.hold.is_sure
    rig.hold.confirm(30.0)
    rig.tick_until(WINDOW / 2 + 29)
    assert rig.hold.is_sure
    rig.hold.confirm(10.0)
    rig.tick_until(WINDOW / 2 + 31)
    assert (rig.hold.lasts, rig.hold.is_sure) == (False, False)
    rig.hold.confirm(rig.now)
    assert rig.hold.is_sure


@in_virtual_time
async def test_it_is_not_sure_after_a_break_until_it_is_confirmed_again() -> None:
    rig = Rig()
    rig.tick_until(10)
    asked = rig.now
    rig.now += 30
    # Before anything has ticked.
    assert (rig.hold.lasts, rig.hold.is_sure) == (True, False)
    assert rig.pulse.tick(rig.now)
    assert not rig.hold.is_sure
    rig.tick_until(rig.now + 5)
    assert not rig.hold.is_sure
    # An answer to a question from before the break.
    rig.hold.confirm(asked)
    assert not rig.hold.is_sure
    rig.hold.confirm(rig.now)
    assert rig.hold.is_sure


@in_virtual_time
async def test_the_first_loss_stands() -> None:
    rig = Rig()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(lost(rig.hold))
        await asyncio.sleep(1)
        assert not waiting.done()
        rig.hold.lose(Unconfirmed())
        rig.hold.lose(ValueError())
    assert waiting.result()


async def lost(hold: Hold) -> bool:
    with pytest.raises(Unconfirmed):
        await hold.until_lost()
    return True
