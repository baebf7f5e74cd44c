from __future__ import annotations

import asyncio

import pytest

from audio.engine import EngineError, StreamRequest, Throttled, Unavailable
from audio.feeding import Feed, Flushes
from audio.hearing import Hearing
from audio.hearing_stream import CLOSED_BY_ENGINE, HearingStream
from audio.hearing_vigil import Patience
from audio.ring import Ring
from audio.transcript import Final, Partial
from tests.support.scripted_engine import Script, ScriptedEngine, tone
from tests.support.virtual_time import run


class Deaf:
    def on_partial(self, partial: Partial) -> None:
        """Nobody looks."""

    def on_final(self, final: Final) -> None:
        """Nobody looks."""

    def on_notice(self, code: str, message: str, start: int | None, end: int | None) -> None:
        raise AssertionError(code)


async def served(script: Script, *, end: bool, silent: float | None = None) -> tuple[EngineError | None, int]:
    """How a stream ends that is given an utterance, and what of it was settled."""
    ring = Ring()
    feed = Feed(
        ring,
        ring.add_reader("transcriber", 0),
        clock=asyncio.get_running_loop().time,
        lag=100_000,
        margin=100,
        may_let_go=True,
    )
    hearing = Hearing(Deaf(), language="en-US", next_ordinal=1, settled=0, transcribes=True)
    ring.write(tone(1, 2) * 8)
    ending = asyncio.Event()
    if end:
        ending.set()
    engine = ScriptedEngine(script)
    stream = HearingStream(
        await engine.open(StreamRequest("en-US", "s")),
        feed=feed,
        hearing=hearing,
        flushes=Flushes(),
        ending=ending,
        clock=asyncio.get_running_loop().time,
        piece=1600,
        patience=Patience(silent),
        serves=lambda: None,
    )
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(stream.serve())
        for _ in range(20):
            await asyncio.sleep(1)
            stream.look()
    return serving.result(), hearing.settled


def test_a_stream_that_is_told_the_end_ends_without_an_error() -> None:
    assert run(served(Script(), end=True)) == (None, len(tone(1, 2)) * 4)


@pytest.mark.parametrize("error", [Unavailable("x", "died"), Throttled("x", "busy")])
def test_a_stream_that_dies_gives_its_error(error: EngineError) -> None:
    got, settled = run(served(Script(die_after=20_000, error=error), end=True))
    assert got is error
    assert 0 < settled <= 20_000


def test_a_clean_close_that_nobody_asked_for_is_an_error_of_its_own() -> None:
    got, _ = run(served(Script(die_after=20_000, error=None), end=True))
    assert got is not None
    assert got.code == CLOSED_BY_ENGINE


def test_a_stream_that_reports_nothing_while_it_takes_audio_is_given_up() -> None:
    got, _ = run(served(Script(mute=True, speed=1.0), end=False, silent=3.0))
    assert got is not None
    assert got.code == "silent_stream"


def test_a_mute_stream_that_is_sent_no_speech_is_not_given_up() -> None:
    async def main() -> None:
        ring = Ring()
        clock = asyncio.get_running_loop().time
        reader = ring.add_reader("transcriber", 0)
        feed = Feed(ring, reader, clock=clock, lag=100_000, margin=100, may_let_go=True)
        hearing = Hearing(Deaf(), language="en-US", next_ordinal=1, settled=0, transcribes=True)
        ring.write(bytes(2 * 16_000 * 10))
        served: list[str] = []
        stream = HearingStream(
            await ScriptedEngine(Script(mute=True, speed=1.0)).open(StreamRequest("en-US", "s")),
            feed=feed,
            hearing=hearing,
            flushes=Flushes(),
            ending=asyncio.Event(),
            clock=clock,
            piece=1600,
            patience=Patience(3.0),
            serves=lambda: served.append("yes"),
        )
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(stream.serve())
            await asyncio.sleep(12)
            stream.look()
            assert not serving.done()
            serving.cancel()
        assert hearing.settled == 8 * 16_000
        assert (served, stream.reported) == ([], False)

    run(main())
