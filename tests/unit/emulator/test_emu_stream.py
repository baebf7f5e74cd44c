from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import numpy as np
import pytest

from loadtest.emulator.eventstream import decode
from loadtest.emulator.faults import Fault, FaultKind
from loadtest.emulator.ledger import Entry
from loadtest.emulator.parameters import parse
from loadtest.emulator.problems import Kind
from loadtest.emulator.stream import Cut, Rules, Stream

CHUNK = 3200
LOUD = np.random.default_rng(1).integers(-3000, 3000, 16_000 * 60).astype(np.int16).tobytes()


class Call:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Time that goes only when told."""

    def __init__(self) -> None:
        self.at = 100.0
        self._calls: list[tuple[float, int, Call, Callable[[], object]]] = []
        self._count = itertools.count()

    def time(self) -> float:
        return self.at

    def horizon(self) -> float:
        return self.at + 0.001

    def call_at(self, when: float, callback: Callable[[], object], /) -> Call:
        call = Call()
        heapq.heappush(self._calls, (when, next(self._count), call, callback))
        return call

    def go(self, seconds: float) -> None:
        until = self.at + seconds
        while self._calls and self._calls[0][0] <= until:
            when, _, call, callback = heapq.heappop(self._calls)
            self.at = max(self.at, when)
            if not call.cancelled:
                callback()
        self.at = until


class Wire:
    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.messages: list[tuple[float, bytes]] = []
        self._ended: list[str] = []
        self._reading = [True]

    def event(self, message: bytes) -> None:
        assert not self._ended
        self.messages.append((self._loop.at, message))

    def finish(self) -> None:
        self._ended.append("finished")

    def cut(self, how: Cut) -> None:
        self._ended.append(how)

    def hold(self, *, reading: bool) -> None:
        self._reading.append(reading)

    def ended(self) -> str:
        return "".join(self._ended)

    def is_reading(self) -> bool:
        return self._reading[-1]

    @property
    def exception(self) -> tuple[str, str]:
        message = decode(self.messages[-1][1])
        return str(message.headers[":exception-type"]), message.payload.decode()


class Scene:
    def __init__(self, fault: Fault | None = None, **rules: float) -> None:
        self.loop = Loop()
        self.wire = Wire(self.loop)
        self.entry = Entry(1, "s", "r", "test", "q")
        self.ends: list[str] = []
        parameters = parse({"language-code": "en-US", "media-encoding": "pcm", "sample-rate": "16000"})
        self.stream = Stream(
            wire=self.wire,
            parameters=parameters,
            entry=self.entry,
            rules=Rules(**rules),
            timers=self.loop,
            on_end=self.ends.append,
        )
        self._sent = 0
        if fault is not None:
            self.stream.arm(fault)

    def speak(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.stream.audio(LOUD[self._sent : self._sent + CHUNK])
            self._sent += CHUNK
            self.loop.go(0.1)
            self.stream.check(self.loop.at)


def test_results_come_after_the_latency_and_the_end_after_them() -> None:
    scene = Scene(latency=0.05)
    scene.speak(1)
    assert [round(at - 100, 3) for at, _ in scene.wire.messages] == [0.15, 0.35, 0.55, 0.75, 0.95]
    scene.stream.audio(b"")
    assert not scene.wire.ended()
    scene.loop.go(0.05)
    assert scene.wire.ended() == "finished"
    assert b'"IsPartial":false' in scene.wire.messages[-1][1]
    assert scene.ends == ["finished"]
    assert (scene.entry.partials, scene.entry.finals) == (5, 1)


def test_15_seconds_without_audio_end_a_stream() -> None:
    scene = Scene()
    scene.speak(1)
    scene.loop.go(14.8)
    scene.stream.check(scene.loop.at)
    assert not scene.wire.ended()
    scene.loop.go(0.3)
    scene.stream.check(scene.loop.at)
    text = '{"Message":"Your request timed out because no new audio was received for 15 seconds."}'
    assert scene.wire.exception == ("BadRequestException", text)
    assert scene.wire.ended() == "finished"
    assert scene.ends == ["BadRequestException"]


def test_so_does_its_longest_duration_in_time_or_in_audio() -> None:
    by_time, by_audio = Scene(longest=3.0, idle=100), Scene(longest=3.0)
    by_time.loop.go(3.1)
    by_time.stream.check(by_time.loop.at)
    for at in range(0, CHUNK * 31, CHUNK):
        by_audio.stream.audio(LOUD[at : at + CHUNK])
    by_audio.stream.check(by_audio.loop.at)
    assert by_time.wire.exception[0] == by_audio.wire.exception[0] == "LimitExceededException"


@pytest.mark.parametrize(
    ("size", "text"), [(32_002, "too big"), (64_000, "too big"), (3201, "Half a sample")]
)
def test_a_chunk_that_is_too_long_or_odd_ends_a_stream(size: int, text: str) -> None:
    scene = Scene()
    scene.stream.audio(bytes(size))
    assert scene.wire.exception[0] == "BadRequestException"
    assert text in scene.wire.exception[1]


def test_a_chunk_of_a_second_is_accepted() -> None:
    scene = Scene()
    scene.stream.audio(bytes(32_000))
    assert not scene.ends


def test_audio_after_the_end_is_ignored() -> None:
    scene = Scene()
    scene.stream.audio(b"")
    scene.speak(1)
    assert scene.entry.samples == 0
    assert scene.ends == ["finished"]


@pytest.mark.parametrize("kind", [FaultKind.DROP, FaultKind.TCP_RST, FaultKind.RST_STREAM, FaultKind.GOAWAY])
def test_a_connection_is_cut_after_so_much_audio(kind: FaultKind) -> None:
    scene = Scene(Fault(kind, after_seconds=0.5))
    scene.speak(0.4)
    assert not scene.wire.ended()
    scene.speak(0.2)
    assert scene.wire.ended() == kind
    assert scene.entry.samples == 8000
    assert scene.ends == [f"fault: {kind}"]


@pytest.mark.parametrize("name", [Kind.BAD_REQUEST, Kind.CONFLICT, Kind.SERVICE_UNAVAILABLE])
def test_an_exception_of_any_kind(name: Kind) -> None:
    scene = Scene(Fault(FaultKind.EXCEPTION, exception=name, message="so", after_seconds=1))
    scene.speak(2)
    assert scene.wire.exception == (name, '{"Message":"so"}')
    assert scene.ends == [name]


def test_silence_takes_audio_and_answers_nothing_to_the_end() -> None:
    scene = Scene(Fault(FaultKind.SILENCE, after_seconds=1))
    scene.speak(3)
    heard = len(scene.wire.messages)
    assert heard <= 5
    scene.stream.audio(b"")
    scene.loop.go(10)
    assert (len(scene.wire.messages), scene.wire.ended(), scene.entry.samples) == (heard, "", 48_000)


def test_silence_for_a_time_ends_and_positions_go_on() -> None:
    scene = Scene(Fault(FaultKind.SILENCE, after_seconds=1, seconds=1))
    scene.speak(3)
    assert b'"EndTime":3.0,' in scene.wire.messages[-1][1] or b'"EndTime":2.8,' in scene.wire.messages[-1][1]
    scene.stream.audio(b"")
    scene.loop.go(1)
    assert scene.wire.ended() == "finished"


def test_a_stall_reads_nothing_and_sends_nothing_then_all() -> None:
    scene = Scene(Fault(FaultKind.STALL, after_seconds=1, seconds=30))
    scene.speak(1)
    heard = len(scene.wire.messages)
    assert not scene.wire.is_reading()
    scene.loop.go(29)
    scene.stream.check(scene.loop.at)
    assert (len(scene.wire.messages), scene.wire.ended()) == (heard, "")
    scene.loop.go(2)
    assert scene.wire.is_reading()
    assert len(scene.wire.messages) == 5
    scene.speak(1)
    assert len(scene.wire.messages) == 10


def test_slow_takes_its_time_to_answer_and_to_read() -> None:
    scene = Scene(Fault(FaultKind.SLOW, factor=4, bytes_per_second=16_000), latency=0.1)
    scene.speak(0.1)
    assert not scene.wire.is_reading()
    scene.loop.go(0.11)
    assert scene.wire.is_reading()
    scene.speak(0.1)
    at = [round(when - 100, 2) for when, _ in scene.wire.messages]
    scene.loop.go(1)
    assert at == []
    assert [round(when - 100, 2) for when, _ in scene.wire.messages] == [0.61]


def test_a_clean_close_gives_no_final_for_what_is_being_said() -> None:
    scene = Scene(Fault(FaultKind.CLOSE, after_seconds=1))
    scene.speak(2)
    assert scene.wire.ended() == "finished"
    assert scene.entry.finals == 0
    assert scene.ends == ["fault: close"]


def test_a_lost_connection_leaves_nothing_behind() -> None:
    scene = Scene()
    scene.speak(1)
    scene.stream.lost()
    sent = len(scene.wire.messages)
    scene.loop.go(60)
    scene.stream.check(scene.loop.at)
    scene.stream.lost()
    assert len(scene.wire.messages) == sent
    assert scene.ends == ["lost by the client"]
