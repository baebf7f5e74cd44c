from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.engine import Engine, EngineError, Rejected, StreamRequest, Throttled, Unavailable
from audio.engines.null import NullEngine
from audio.pcm import SAMPLE_RATE, samples_of
from audio.ring import RING_SAMPLES, Ring
from audio.transcriber import Transcriber, TranscriberLimits
from audio.transcript import Final, Partial
from tests.support.scripted_engine import Script, ScriptedEngine, tone
from tests.support.virtual_time import run

REQUEST = StreamRequest(language="en-US", session="s")
FRAME = 3200
SECOND = SAMPLE_RATE


@dataclass
class Sink:
    partials: list[Partial] = field(default_factory=list)
    finals: list[Final] = field(default_factory=list)
    notices: list[tuple[str, int | None, int | None]] = field(default_factory=list)

    def on_partial(self, partial: Partial) -> None:
        self.partials.append(partial)

    def on_final(self, final: Final) -> None:
        self.finals.append(final)

    def on_notice(self, code: str, message: str, start: int | None, end: int | None) -> None:
        assert message
        self.notices.append((code, start, end))

    def codes(self) -> list[str]:
        return [code for code, _, _ in self.notices]

    def texts(self) -> list[str]:
        return [final.text for final in self.finals]

    def gaps(self) -> list[tuple[int | None, int | None]]:
        return [(start, end) for code, start, end in self.notices if code == "transcript_gap"]


class Session:
    """A ring with a writer that minds its window, a recorder that is always up to date, and a transcriber."""

    def __init__(
        self,
        engine: Engine,
        *,
        keep_audio: bool = True,
        settled: int = 0,
        origin: int = 0,
        limits: TranscriberLimits | None = None,
    ) -> None:
        self.ring = Ring(origin)
        self.recorder = self.ring.add_reader("recorder", origin)
        self.reader = self.ring.add_reader("transcriber", origin)
        self.sink = Sink()
        self.longest_wait = 0.0
        self.transcriber = Transcriber(
            engine=engine,
            request=REQUEST,
            ring=self.ring,
            reader=self.reader,
            sink=self.sink,
            language="en-US",
            settled=settled,
            clock=lambda: asyncio.get_running_loop().time(),
            rng=Random(1),  # noqa: S311 - jitter
            limits=limits,
            keep_audio=keep_audio,
        )

    async def write(self, pcm: bytes, *, seconds: float = 0.0) -> None:
        """Write in frames, as fast as the window allows, or so many seconds after one another."""
        loop = asyncio.get_running_loop()
        for at in range(0, len(pcm), FRAME):
            data = pcm[at : at + FRAME]
            began = loop.time()
            while self.ring.window < samples_of(len(data)):  # noqa: ASYNC110 - a client that looks now and then
                await asyncio.sleep(0.01)
            self.longest_wait = max(self.longest_wait, loop.time() - began)
            self.recorder.advance(self.ring.write(data))
            self.transcriber.audio_arrived()
            await asyncio.sleep(seconds)

    async def speak(self, pcm: bytes) -> None:
        """Write at the pace of speech."""
        await self.write(pcm, seconds=FRAME / 2 / SECOND)


def during(session: Session, story: Awaitable[None]) -> Coroutine[Any, Any, Sink]:
    """The story, beside the running transcriber; its end, too, unless the story told it."""

    async def both() -> Sink:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(session.transcriber.run())
            await story
            await session.transcriber.end()
        return session.sink

    return both()


def hear(engine_of: Callable[[], Engine], pcm: bytes, **options: Any) -> tuple[Session, Sink]:
    """Speak it all, then end."""

    async def main() -> tuple[Session, Sink]:
        session = Session(engine_of(), **options)
        return session, await during(session, session.speak(pcm))

    return run(main())


TALK = b"".join(tone(*range(number, number + 3)) for number in range(1, 60, 4))
SPOKEN = [f"w{number} w{number + 1} w{number + 2}" for number in range(1, 60, 4)]


def test_what_is_said_becomes_partials_and_then_finals_on_positions() -> None:
    session, sink = hear(ScriptedEngine, bytes(2 * SECOND) + tone(7, 8) + tone(9))
    assert sink.texts() == ["w7 w8", "w9"]
    first = sink.finals[0]
    assert (first.id, first.start, first.end, first.language) == ("u1", SECOND, SECOND + 9600, "en-US")
    assert [word.start for word in first.words] == [SECOND, SECOND + 4800]
    assert {partial.id for partial in sink.partials} == {"u1", "u2"}
    assert sink.notices == []
    assert session.transcriber.settled == session.ring.head == session.transcriber.sent
    assert list(session.transcriber.live) == [(0, session.ring.head)]


def test_positions_go_on_from_where_the_ring_begins() -> None:
    _, sink = hear(ScriptedEngine, tone(7), origin=500_000, settled=500_000)
    assert (sink.finals[0].start, sink.finals[0].end) == (500_000, 504_800)


def test_what_was_settled_before_is_not_heard_again() -> None:
    session, sink = hear(ScriptedEngine, tone(7) + tone(8), settled=samples_of(len(tone(7))))
    assert sink.texts() == ["w8"]
    assert session.transcriber.live.total() == samples_of(len(tone(8)))


def test_no_stream_is_opened_before_there_is_audio() -> None:
    async def main() -> None:
        engine = ScriptedEngine()
        session = Session(engine)
        await during(session, asyncio.sleep(60))
        assert engine.streams == []

    run(main())


GATHERING = TranscriberLimits(gather=SECOND // 5)


def test_audio_is_gathered_for_a_stream_that_wants_it_so_and_what_is_left_over_is_not_kept_from_it() -> None:
    async def main() -> None:
        session = Session(ScriptedEngine(), limits=GATHERING)

        async def story() -> None:
            sent = []
            for _ in range(7):
                await session.speak(tone(7)[:FRAME])
                sent.append(session.transcriber.sent)
            # The first opens the stream, and is sent as soon as it is open.
            assert [samples * 10 // SECOND for samples in sent] == [1, 1, 3, 3, 5, 5, 7]
            await session.speak(tone(7)[:FRAME])
            assert session.transcriber.sent < session.ring.head
            await asyncio.sleep(2 * GATHERING.tick)
            assert session.transcriber.sent == session.ring.head

        await during(session, story())

    run(main())


@pytest.mark.parametrize("ask", ["flush", "end"])
def test_what_is_gathered_is_sent_at_once_when_somebody_wants_it_heard(ask: str) -> None:
    async def main() -> None:
        session = Session(ScriptedEngine(), limits=GATHERING)

        async def story() -> None:
            await session.speak(tone(7)[:FRAME] * 2)
            began = asyncio.get_running_loop().time()
            await getattr(session.transcriber, ask)()
            assert session.transcriber.sent == session.ring.head
            assert asyncio.get_running_loop().time() - began < GATHERING.tick

        await during(session, story())

    run(main())


ERRORS = st.sampled_from([Unavailable("x", "died"), Throttled("x", "busy", 0.5), None])


@given(st.lists(st.tuples(st.integers(0, 6 * SECOND), ERRORS), max_size=6), st.integers(0, 3))
@settings(max_examples=60)
def test_finals_are_the_same_whenever_streams_die(
    deaths: list[tuple[int, EngineError | None]], refusals: int
) -> None:
    refused = [Script(open_error=Unavailable("x", "away")) for _ in range(refusals)]
    scripts = refused + [Script(die_after=after, error=error) for after, error in deaths]
    _, undisturbed = hear(ScriptedEngine, TALK)
    session, sink = hear(lambda: ScriptedEngine(*scripts), TALK)
    assert sink.texts() == SPOKEN
    assert [(f.start, f.end, f.words) for f in sink.finals] == [
        (f.start, f.end, f.words) for f in undisturbed.finals
    ]
    assert [final.id for final in sink.finals] == [f"u{number + 1}" for number in range(len(SPOKEN))]
    assert set(sink.codes()) <= {"engine_restarted", "engine_waiting"}
    assert list(session.transcriber.live) == [(0, session.ring.head)]


def test_each_restart_is_told_with_where_hearing_begins_again() -> None:
    _, sink = hear(lambda: ScriptedEngine(Script(die_after=SECOND)), TALK)
    assert [code for code in sink.codes() if code == "engine_restarted"] == ["engine_restarted"]
    code, start, end = sink.notices[0]
    assert (code, end) == ("engine_restarted", None)
    assert start is not None
    assert start <= SECOND


def test_a_stream_that_died_in_mid_speech_is_replayed_although_nobody_speaks_on() -> None:
    async def main() -> None:
        session = Session(ScriptedEngine(Script(die_after=9000)))

        async def story() -> None:
            await session.speak(tone(1, 2))
            await asyncio.sleep(10)
            assert session.sink.texts() == ["w1 w2"]

        await during(session, story())

    run(main())


def test_a_stream_that_closes_while_all_is_settled_is_not_replaced_until_somebody_speaks() -> None:
    async def main() -> None:
        engine = ScriptedEngine()
        session = Session(engine)

        async def story() -> None:
            await session.speak(tone(1))
            engine.streams[0]._script = Script(error=None)
            engine.streams[0].die()
            await asyncio.sleep(60)
            assert len(engine.streams) == 1
            await session.speak(tone(2))

        await during(session, story())
        assert session.sink.texts() == ["w1", "w2"]
        assert len(engine.streams) == 2

    run(main())


def test_a_throttling_engine_is_left_alone_for_as_long_as_it_asks() -> None:
    async def main() -> None:
        engine = ScriptedEngine(Script(open_error=Throttled("busy", "busy", 4.0)))
        session = Session(engine)
        await during(session, session.speak(TALK[: 10 * SECOND]))
        first, second = engine.opened_at
        assert 4.0 <= second - first <= 4.2
        assert session.sink.finals

    run(main())


def test_pauses_between_attempts_grow_up_to_their_ceiling() -> None:
    async def main() -> None:
        engine = ScriptedEngine(*[Script(open_error=Unavailable("x", "away")) for _ in range(100)])
        session = Session(engine)
        await during(session, session.speak(bytes(120 * SECOND)))
        pauses = [
            after - before for before, after in zip(engine.opened_at, engine.opened_at[1:], strict=False)
        ]
        assert pauses[0] <= 0.1
        assert max(pauses) <= 5.001
        assert len(pauses) < 60

    run(main())


def test_waiting_for_a_place_is_told_once_and_the_audio_is_kept_meanwhile() -> None:
    async def main() -> None:
        engine = ScriptedEngine(places=1)
        other = await engine.open(REQUEST)
        session = Session(engine)

        async def story() -> None:
            async with asyncio.TaskGroup() as tasks:
                speaking = tasks.create_task(session.speak(TALK[: 12 * SECOND]))
                await asyncio.sleep(5)
                assert session.sink.notices == [("engine_waiting", None, None)]
                await other.close()
                await speaking

        sink = await during(session, story())
        assert sink.codes() == ["engine_waiting"]
        assert sink.texts() == SPOKEN[: len(sink.finals)]
        assert list(session.transcriber.live) == [(0, session.ring.head)]

    run(main())


def test_an_engine_that_takes_long_to_open_is_told_although_it_has_room() -> None:
    quick = hear(lambda: ScriptedEngine(Script(open_seconds=0.8)), TALK)[1]
    slow = hear(lambda: ScriptedEngine(Script(open_seconds=3.0)), TALK)[1]
    assert quick.codes() == []
    assert slow.codes() == ["engine_waiting"]
    assert quick.texts() == slow.texts() == SPOKEN


def test_a_stalled_engine_does_not_stop_the_recorder_and_its_gap_is_told() -> None:
    async def main() -> None:
        engine = ScriptedEngine(Script(stall_after=5 * SECOND))
        session = Session(engine)

        async def story() -> None:
            async with asyncio.TaskGroup() as tasks:
                speaking = tasks.create_task(session.speak(TALK * 4))
                await asyncio.sleep(45)
                assert not session.reader.holds
                engine.go_on()
                await speaking

        sink = await during(session, story())
        assert session.longest_wait < 0.05
        assert session.ring.head == samples_of(len(TALK * 4))
        ((start, end),) = sink.gaps()
        assert start is not None
        assert end is not None
        assert end - start > 20 * SECOND
        assert list(session.transcriber.live) == [(0, start), (end, session.ring.head)]
        assert session.reader.position == session.ring.head
        assert sink.texts()[-1] == SPOKEN[-1]
        assert all(final.end <= start or final.start >= end for final in sink.finals if "w" in final.text)
        positions = [edge for final in sink.finals for edge in (final.start, final.end)]
        assert positions == sorted(positions)

    run(main())


def test_a_stall_shorter_than_the_ring_loses_nothing() -> None:
    async def main() -> None:
        engine = ScriptedEngine(Script(stall_after=5 * SECOND))
        session = Session(engine)

        async def story() -> None:
            async with asyncio.TaskGroup() as tasks:
                speaking = tasks.create_task(session.speak(TALK * 2))
                await asyncio.sleep(19)
                assert not session.reader.holds
                engine.go_on()
                await speaking
                assert session.reader.holds

        sink = await during(session, story())
        assert sink.texts() == SPOKEN * 2
        assert sink.notices == []

    run(main())


def test_a_fast_speaker_is_held_to_the_pace_of_a_healthy_engine_and_nothing_is_dropped() -> None:
    async def main() -> None:
        session = Session(ScriptedEngine(Script(speed=4.0)))
        sink = await during(session, session.write(TALK * 4))
        assert sink.texts() == SPOKEN * 4
        assert sink.notices == []
        assert session.longest_wait > 0.01

    run(main())


def test_an_engine_slower_than_real_time_does_not_hold_a_fast_speaker() -> None:
    async def main() -> None:
        session = Session(ScriptedEngine(Script(speed=0.5)))
        began = asyncio.get_running_loop().time()

        async def story() -> None:
            await session.write(TALK * 4)
            assert asyncio.get_running_loop().time() - began < 30

        sink = await during(session, story())
        assert sink.gaps()
        covered = session.transcriber.live.copy()
        for start, end in sink.gaps():
            assert start is not None
            assert end is not None
            covered.add(start, end)
        assert covered.contains(0, session.transcriber.settled)

    run(main())


def test_a_session_that_keeps_no_audio_closes_its_window_instead() -> None:
    async def main() -> None:
        engine = ScriptedEngine(Script(stall_after=5 * SECOND))
        session = Session(engine, keep_audio=False)

        async def story() -> None:
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(session.speak(TALK * 4))
                await asyncio.sleep(60)
                assert session.ring.window < FRAME
                assert session.reader.holds
                engine.go_on()
                await writing

        sink = await during(session, story())
        assert sink.texts() == SPOKEN * 4
        assert sink.notices == []

    run(main())


def test_audio_lost_between_death_and_a_late_replacement_is_a_gap() -> None:
    async def main() -> None:
        engine = ScriptedEngine(Script(die_after=5 * SECOND), Script(open_seconds=40.0))
        session = Session(engine)
        sink = await during(session, session.speak(TALK * 4))
        assert session.longest_wait < 0.05
        ((start, end),) = sink.gaps()
        assert start is not None
        assert end is not None
        assert start <= 5 * SECOND
        assert list(session.transcriber.live) == [(0, start), (end, session.ring.head)]
        assert sink.codes().count("engine_restarted") == 1
        assert len({final.id for final in sink.finals}) == len(sink.finals)

    run(main())


def test_flush_returns_when_what_was_said_is_final() -> None:
    async def main() -> None:
        session = Session(ScriptedEngine())

        async def story() -> None:
            assert await session.transcriber.flush()
            await session.speak(tone(1, 2, pause=0.0))
            assert session.sink.finals == []
            assert await session.transcriber.flush()
            assert session.sink.texts() == ["w1 w2"]
            assert session.transcriber.settled == session.ring.head
            assert await session.transcriber.flush()
            await session.speak(tone(3))

        sink = await during(session, story())
        assert sink.texts() == ["w1 w2", "w3"]
        assert sink.finals[1].start == 9600

    run(main())


def test_flush_answers_for_all_that_was_said_although_more_is_said_meanwhile() -> None:
    async def main() -> None:
        session = Session(ScriptedEngine(Script(speed=2.0)))

        async def story() -> None:
            async with asyncio.TaskGroup() as tasks:
                await session.write(tone(1, pause=0.0) * 20)
                asked = session.ring.head
                flushing = tasks.create_task(session.transcriber.flush())
                await asyncio.sleep(0)
                await session.write(tone(2, pause=0.0) * 20)
                assert await flushing
                assert session.sink.finals[-1].end == asked

        sink = await during(session, story())
        assert sink.texts() == ["w1", "w2"]

    run(main())


def test_flush_survives_the_death_of_the_stream_that_was_asked() -> None:
    async def main() -> None:
        engine = ScriptedEngine(Script(mute=True))
        session = Session(engine)

        async def story() -> None:
            async with asyncio.TaskGroup() as tasks:
                await session.speak(tone(1, pause=0.0))
                flushing = tasks.create_task(session.transcriber.flush())
                await asyncio.sleep(1)
                engine.streams[0].die()
                assert await flushing
                assert session.sink.texts() == ["w1"]

        await during(session, story())

    run(main())


def test_flush_gives_up_when_its_time_has_passed() -> None:
    async def main() -> None:
        session = Session(ScriptedEngine(Script(stall_after=0)))

        async def story() -> None:
            await session.speak(tone(1))
            before = asyncio.get_running_loop().time()
            assert not await session.transcriber.flush()
            assert asyncio.get_running_loop().time() - before == pytest.approx(10.0, abs=0.1)

        await during(session, story())
        assert not await session.transcriber.flush()

    run(main())


def test_a_pause_makes_what_was_said_final() -> None:
    async def main() -> None:
        session = Session(ScriptedEngine())

        async def story() -> None:
            await session.speak(tone(1, pause=0.0))
            session.transcriber.pause()
            await asyncio.sleep(1)
            assert session.sink.texts() == ["w1"]

        await during(session, story())

    run(main())


def test_the_end_waits_for_the_last_finals() -> None:
    async def main() -> None:
        session = Session(ScriptedEngine(Script(speed=2.0)))
        sink = await during(session, session.write(TALK[: 20 * SECOND] + tone(99, pause=0.0)))
        assert sink.texts()[-1].endswith("w99")
        assert session.transcriber.settled == session.ring.head
        await session.transcriber.end()

    run(main())


def test_the_end_replays_into_a_new_stream_when_the_last_one_dies_in_it() -> None:
    _, sink = hear(lambda: ScriptedEngine(Script(die_after=samples_of(len(TALK)) - 100)), TALK)
    assert sink.texts() == SPOKEN


@pytest.mark.parametrize("script", [Script(stall_after=9600), Script(open_seconds=1e6)])
def test_the_end_does_not_wait_for_ever_for_a_stalled_engine(script: Script) -> None:
    async def main() -> None:
        engine = ScriptedEngine(script)
        session = Session(engine)

        async def story() -> None:
            await session.speak(TALK)
            before = asyncio.get_running_loop().time()
            await session.transcriber.end()
            assert asyncio.get_running_loop().time() - before == pytest.approx(20.0, abs=0.1)

        await during(session, story())
        assert session.transcriber.live.total() <= 9600
        assert session.transcriber.settled <= 9600
        assert all(stream.closed for stream in engine.streams)

    run(main())


@pytest.mark.parametrize("after", [0.05, 1.0, 4.0, 6.5, 9.0])
@pytest.mark.parametrize(
    "script",
    [
        Script(),
        Script(open_seconds=5.0),
        Script(stall_after=SECOND),
        Script(die_after=SECOND, error=Throttled("x", "busy", 3.0)),
    ],
)
def test_cancelling_closes_the_stream_and_leaks_nothing(script: Script, after: float) -> None:
    async def main() -> None:
        engine = ScriptedEngine(script, places=1)
        session = Session(engine)
        running = asyncio.create_task(session.transcriber.run())
        speaking = asyncio.create_task(session.speak(TALK))
        await asyncio.sleep(after)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        speaking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await speaking
        assert all(stream.closed for stream in engine.streams)
        assert engine.has_room()
        await session.transcriber.end()

    run(main())


def test_a_refused_session_is_told_once_recorded_on_and_ended_at_once() -> None:
    async def main() -> None:
        engine = ScriptedEngine(Script(open_error=Rejected("vocabulary", "none of that name")))
        session = Session(engine)

        async def story() -> None:
            await session.speak(TALK * 2)
            assert not await session.transcriber.flush()

        sink = await during(session, story())
        assert sink.notices == [("engine_degraded", 0, None)]
        assert len(engine.opened_at) == 1
        assert session.longest_wait < 0.05
        assert list(session.transcriber.live) == []

    run(main())


def test_a_stream_that_takes_audio_and_reports_nothing_is_replaced() -> None:
    limits = TranscriberLimits(silent_stream=5.0)
    _, sink = hear(lambda: ScriptedEngine(Script(mute=True)), TALK, limits=limits)
    assert sink.texts() == SPOKEN
    assert sink.codes() == ["engine_restarted"]


def test_noise_without_words_restarts_the_engine_less_and_less_often() -> None:
    async def main() -> None:
        engine = ScriptedEngine(*[Script(mute=True)] * 100)
        session = Session(engine, limits=TranscriberLimits(silent_stream=5.0))
        await during(session, session.speak(tone(1, seconds=300.0)))
        assert 5 <= len(engine.streams) <= 9
        lives = [later - former for former, later in pairwise(engine.opened_at)]
        assert lives[4] > 4 * lives[0]

    run(main())


def test_silence_is_no_sign_of_a_dead_stream() -> None:
    async def main() -> None:
        engine = ScriptedEngine(Script(mute=True))
        session = Session(engine, limits=TranscriberLimits(silent_stream=5.0))
        await during(session, session.speak(bytes(2 * 60 * SECOND)))
        assert len(engine.streams) == 1

    run(main())


def test_a_stream_that_dies_in_a_long_silence_leaves_no_gap() -> None:
    async def main() -> None:
        engine = ScriptedEngine(Script(mute=True, die_after=60 * SECOND))
        session = Session(engine)
        sink = await during(session, session.speak(bytes(2 * 90 * SECOND) + tone(1, 2)))
        assert sink.gaps() == []
        assert sink.texts() == ["w1 w2"]
        assert list(session.transcriber.live) == [(0, session.ring.head)]

    run(main())


def test_what_was_said_before_a_long_silence_is_not_settled_by_it() -> None:
    async def main() -> None:
        engine = ScriptedEngine(Script(mute=True, die_after=8 * SECOND))
        session = Session(engine)
        sink = await during(session, session.speak(tone(1, 2) + bytes(2 * 10 * SECOND) + tone(3)))
        assert sink.texts() == ["w1 w2", "w3"]

    run(main())


def test_a_session_that_is_refused_within_its_streams_is_recorded_on() -> None:
    async def main() -> None:
        no = [Script(die_after=1600, error=Rejected("vocabulary", "none of that name"), mute=True)] * 9
        engine = ScriptedEngine(*no)
        session = Session(engine)
        sink = await during(session, session.speak(TALK * 2))
        assert [code for code in sink.codes() if code != "engine_waiting"] == ["engine_degraded"]
        assert len(engine.streams) == 2
        assert session.longest_wait < 0.05

    run(main())


def test_a_stream_that_is_refused_in_mid_speech_is_replaced() -> None:
    scripts = [Script(die_after=after * SECOND, error=Rejected("bad_request", "odd")) for after in (3, 4)]
    _, sink = hear(lambda: ScriptedEngine(*scripts), TALK)
    assert sink.texts() == SPOKEN
    assert sink.codes() == ["engine_restarted"] * 2


def test_no_place_is_waited_for_when_the_session_gets_its_next_stream_at_once() -> None:
    class Full(ScriptedEngine):
        def has_room(self) -> bool:
            return not self.streams

    _, sink = hear(lambda: Full(Script(die_after=SECOND)), TALK)
    assert sink.codes() == ["engine_restarted"]


def test_an_engine_that_promises_no_regular_reports_may_be_silent() -> None:
    _, sink = hear(lambda: ScriptedEngine(Script(mute=True)), TALK)
    assert sink.codes() == []


def test_an_engine_that_does_not_transcribe_settles_nothing_and_answers_flushes() -> None:
    async def main() -> None:
        session = Session(NullEngine())

        async def story() -> None:
            await session.speak(TALK * 2)
            assert await session.transcriber.flush()

        sink = await during(session, story())
        assert (sink.finals, sink.partials, sink.notices) == ([], [], [])
        assert session.transcriber.settled == 0
        assert list(session.transcriber.live) == []
        assert session.transcriber.sent == session.ring.head

    run(main())


def test_a_rewound_reader_that_is_overtaken_goes_on_where_audio_is_left() -> None:
    async def main() -> None:
        # The first stream hears nearly a ring of one endless word, then dies: all of it is replayed, at only 1.5 x real time,
        # while the speaker fills the window that was promised before.
        engine = ScriptedEngine(Script(die_after=15 * SECOND), Script(speed=1.5))
        session = Session(engine)
        sink = await during(session, session.write(tone(1, seconds=15.5) + TALK * 2))
        assert len({final.id for final in sink.finals}) == len(sink.finals)
        positions = [edge for final in sink.finals for edge in (final.start, final.end)]
        assert positions == sorted(positions)
        assert sink.texts()[-1] == SPOKEN[-1]
        covered = session.transcriber.live.copy()
        for start, end in sink.gaps():
            assert start is not None
            assert end is not None
            covered.add(start, end)
        assert list(covered) == [(0, session.ring.head)]

    run(main())


def test_limits_leave_room_in_the_ring() -> None:
    limits = TranscriberLimits()
    assert limits.margin < limits.lag < limits.lag + limits.grace < RING_SAMPLES
    assert msgspec.structs.replace(limits, silent_stream=5.0).silent_stream == 5.0
