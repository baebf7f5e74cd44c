from __future__ import annotations

from app.sessions.pulse import JUMP_SECONDS, Pulse


def test_ticks_that_come_are_no_break() -> None:
    pulse = Pulse()
    assert pulse.trusts(0.0, 1_000.0)
    assert not pulse.tick(1_000.0)
    for n in range(1, 100):
        assert not pulse.tick(1_000.0 + n * (JUMP_SECONDS - 0.01))
    assert pulse.trusts(0.0, pulse.ticked_at or 0)


def test_a_break_is_noticed_before_the_tick_that_ends_it() -> None:
    pulse = Pulse()
    pulse.tick(0.0)
    assert pulse.trusts(0.0, JUMP_SECONDS - 0.01)
    assert not pulse.trusts(0.0, JUMP_SECONDS)
    assert pulse.tick(30.0)
    assert not pulse.trusts(29.9, 30.0)
    assert pulse.trusts(30.0, 30.0)
    assert not pulse.tick(30.1)
    assert not pulse.trusts(29.9, 30.1)
