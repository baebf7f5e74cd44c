from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from audio.engine import EngineEvent, Flushed, Rejected, Settled, StreamResult, Throttled, Unavailable
from audio.engines.aws_events import EMPTY_EVENT_BYTES, END_OF_STREAM, event_message, message_of
from audio.engines.aws_options import AwsLimits
from audio.engines.aws_stream import UNREAD_MAX, AwsStream
from audio.pcm import SAMPLE_RATE
from tests.support.virtual_time import run

BYTES = 2 * SAMPLE_RATE
"""Of one second."""


class FakeConnection:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.reads: list[bool] = []
        self.aborted = False

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def read(self, go_on: bool) -> None:
        self.reads.append(go_on)

    def abort(self) -> None:
        self.aborted = True

    async def gone(self) -> None:
        assert self.aborted

    @property
    def sizes(self) -> list[int]:
        """Bytes of audio in each message."""
        return [len(message) - EMPTY_EVENT_BYTES for message in self.sent]


class Opened:
    """A stream on a fake connection, ticking by itself; ``events`` grows as they come."""

    def __init__(self, **limits: Any) -> None:
        self.limits = AwsLimits(**limits)
        self.connection = FakeConnection()
        self.left = 0
        self.stream = AwsStream(self.limits, self._leave)
        self.stream.connected(self.connection)  # type: ignore[arg-type]
        self.events: list[EngineEvent] = []
        self.outcome: list[Exception | None] = []

    def _leave(self, stream: AwsStream) -> None:
        assert stream is self.stream
        self.left += 1

    async def __aenter__(self) -> Opened:
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._ticking = self._tasks.create_task(self._tick())
        self._listening = self._tasks.create_task(self._listen())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ticking.cancel()
        await self.stream.close()
        await self._tasks.__aexit__(None, None, None)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.limits.tick)
            self.stream.tick()

    async def _listen(self) -> None:
        try:
            async for event in self.stream.events():
                self.events.append(event)
            self.outcome.append(None)
        except (Unavailable, Throttled, Rejected) as error:
            self.outcome.append(error)

    @property
    def cleanly(self) -> bool:
        """Whether the events have ended without an error."""
        return self.outcome == [None]

    @property
    def error(self) -> Exception:
        """What the events have ended by."""
        (error,) = self.outcome
        assert error is not None
        return error

    async def say(self, seconds: float) -> None:
        await self.stream.send([memoryview(bytes(int(seconds * BYTES)))])

    def result(
        self, start: float, end: float, text: str = "x", *, final: bool = True, name: str = "a"
    ) -> None:
        item = {"Content": text, "Type": "pronunciation", "StartTime": start, "EndTime": end}
        said = {
            "ResultId": name,
            "StartTime": start,
            "EndTime": end,
            "IsPartial": not final,
            "Alternatives": [{"Transcript": text, "Items": [item]}],
        }
        payload = json.dumps({"Transcript": {"Results": [said]}}).encode()
        self.stream.received(memoryview(event_message("TranscriptEvent", payload)))

    def exception(self, name: str, message: str = "") -> None:
        headers = {":exception-type": name, ":message-type": "exception"}
        payload = json.dumps({"Message": message}).encode()
        self.stream.received(memoryview(message_of(headers, payload)))


def test_audio_goes_out_in_frames_of_100_to_200_ms() -> None:
    async def main() -> None:
        async with Opened() as it:
            for _ in range(10):
                await it.say(0.02)
            assert it.connection.sizes == [3200, 3200]
            await it.say(0.15)
            await it.say(1.0)
            await it.say(0.21)
            assert all(3200 <= size <= 6400 for size in it.connection.sizes)
            assert sum(it.connection.sizes) >= 1.5 * BYTES

    run(main())


def test_what_is_too_short_for_a_frame_does_not_wait_for_long() -> None:
    async def main() -> None:
        async with Opened() as it:
            await it.say(0.05)
            assert it.connection.sizes == []
            await asyncio.sleep(0.6)
            assert it.connection.sizes == [1600]

    run(main())


def test_when_there_is_no_audio_silence_is_sent_and_has_no_time() -> None:
    async def main() -> None:
        async with Opened() as it:
            await it.say(1.0)
            await asyncio.sleep(60)
            silence = it.connection.sizes[5:]
            assert len(silence) >= 11
            assert set(silence) == {6400}
            await it.say(1.0)
            # The service's clock counts the silence: this is half a second into the second piece of audio.
            at = 1.0 + 0.2 * len(silence)
            it.result(at + 0.5, at + 0.75)
            await asyncio.sleep(0)
            (result, _) = (event for event in it.events if event != Settled(SAMPLE_RATE // 2))
            assert isinstance(result, StreamResult)
            assert (result.start, result.end) == (3 * SAMPLE_RATE // 2, 7 * SAMPLE_RATE // 4)

    run(main())


def test_a_flush_sends_silence_and_is_answered_by_the_final() -> None:
    async def main() -> None:
        async with Opened() as it:
            await it.say(1.05)
            it.result(0.2, 1.0, final=False)
            await it.stream.flush()
            assert sum(it.connection.sizes) == int(1.05 * BYTES) + 1.25 * BYTES
            await asyncio.sleep(1)
            assert Flushed() not in it.events
            it.result(0.2, 1.0)
            await asyncio.sleep(0)
            assert it.events[-2:] == [Settled(SAMPLE_RATE), Flushed()]

    run(main())


def test_a_flush_after_silence_is_answered_when_nothing_comes() -> None:
    async def main() -> None:
        async with Opened() as it:
            await it.say(3.0)
            await it.stream.flush()
            await it.stream.flush()
            await asyncio.sleep(1.4)
            assert it.events == []
            await asyncio.sleep(0.6)
            assert it.events == [Flushed(), Flushed()]
            assert sum(it.connection.sizes) == 3.0 * BYTES + 1.25 * BYTES

    run(main())


def test_a_segment_that_is_never_finished_kills_the_stream_instead_of_being_settled() -> None:
    async def main() -> None:
        async with Opened() as it:
            await it.say(1.0)
            it.result(0.2, 1.0, final=False)
            await it.stream.flush()
            await asyncio.sleep(8.5)
            assert isinstance(it.error, Unavailable)
            assert it.error.code == "flush_timeout"
            assert Flushed() not in it.events

    run(main())


def test_the_end_sends_what_is_left_then_an_empty_event_and_brings_the_last_finals() -> None:
    async def main() -> None:
        async with Opened() as it:
            await it.say(0.05)
            await it.stream.end()
            await it.stream.end()
            assert it.connection.sizes == [1600, 0]
            assert it.connection.sent[-1] == END_OF_STREAM
            await asyncio.sleep(1)
            it.result(0.0, 0.05)
            it.stream.lost(1000)
            await asyncio.sleep(0)
            assert isinstance(it.events[0], StreamResult)
            assert it.cleanly

    run(main())


def test_a_service_that_does_not_close_after_the_end_is_dead() -> None:
    async def main() -> None:
        async with Opened() as it:
            await it.say(1.0)
            await it.stream.end()
            await asyncio.sleep(8.5)
            assert isinstance(it.error, Unavailable)
            assert it.error.code == "end_timeout"

    run(main())


def test_sending_waits_for_room_and_a_service_that_takes_nothing_is_dead() -> None:
    async def main() -> None:
        async with Opened() as it:
            it.stream.blocked(True)
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(it.say(0.2))
                await asyncio.sleep(1)
                assert not sending.done()
                it.stream.blocked(False)
            assert it.connection.sizes == [6400]
            it.stream.blocked(True)
            with pytest.raises(Unavailable) as caught:
                await it.say(0.2)
            assert caught.value.code == "send_timeout"
            assert 1 + 10 <= asyncio.get_running_loop().time() <= 1 + 10.5
            assert it.connection.sizes == [6400]

    run(main())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("LimitExceededException", Throttled),
        ("BadRequestException", Rejected),
        ("ConflictException", Unavailable),
    ],
)
def test_an_exception_ends_the_stream_after_what_came_before_it(name: str, kind: type[Exception]) -> None:
    async def main() -> None:
        async with Opened() as it:
            await it.say(1.0)
            it.result(0.2, 0.8)
            it.exception(name)
            it.stream.lost(1000)
            await asyncio.sleep(0)
            assert isinstance(it.events[0], StreamResult)
            assert type(it.error) is kind
            with pytest.raises(kind):
                await it.say(0.2)

    run(main())


def test_a_clean_close_ends_the_events_and_takes_no_more_audio() -> None:
    async def main() -> None:
        async with Opened() as it:
            it.stream.lost(1000)
            await asyncio.sleep(0)
            assert it.cleanly
            for call in (it.say(0.2), it.stream.flush(), it.stream.end()):
                with pytest.raises(Unavailable):
                    await call

    run(main())


def test_a_clean_close_does_not_answer_flushes_that_were_not_honoured() -> None:
    async def main() -> None:
        async with Opened() as it:
            await it.say(1.0)
            await it.stream.flush()
            it.stream.lost(1000)
            await asyncio.sleep(0)
            assert it.events == []

    run(main())


@pytest.mark.parametrize("code", [None, 1001, 1011])
def test_any_other_close_is_an_error(code: int | None) -> None:
    async def main() -> None:
        async with Opened() as it:
            await it.stream.end()
            it.stream.lost(code)
            await asyncio.sleep(0)
            assert isinstance(it.error, Unavailable)

    run(main())


def test_what_cannot_be_read_kills_the_stream() -> None:
    async def main() -> None:
        async with Opened() as it:
            it.stream.received(memoryview(b"nonsense"))
            await asyncio.sleep(0)
            assert isinstance(it.error, Unavailable)
            assert it.error.code == "malformed"
            assert it.connection.aborted

    run(main())


def test_an_old_stream_lets_go_between_segments() -> None:
    async def main() -> None:
        async with Opened(replace=60.0, replace_latest=90.0) as it:
            await it.say(1.0)
            it.result(0.2, 0.8, final=False)
            await asyncio.sleep(70)
            assert not it.outcome
            it.result(0.2, 0.8)
            await asyncio.sleep(0.5)
            assert it.cleanly
            assert it.connection.sent[-1] == END_OF_STREAM
            before = list(it.events)
            it.result(0.9, 1.0, name="b")
            assert it.events == before
            with pytest.raises(Unavailable):
                await it.say(0.2)

    run(main())


def test_a_stream_that_is_never_between_segments_lets_go_in_any_case() -> None:
    async def main() -> None:
        async with Opened(replace=60.0, replace_latest=90.0) as it:
            await it.say(1.0)
            it.result(0.2, 0.8, final=False)
            await asyncio.sleep(89)
            assert not it.outcome
            await asyncio.sleep(2)
            assert it.cleanly

    run(main())


def test_a_listener_that_does_not_listen_stops_the_reading() -> None:
    async def main() -> None:
        it = Opened()
        await it.say(1.0)
        for _ in range(UNREAD_MAX):
            it.result(0.2, 0.8, final=False)
        assert it.connection.reads == [False]
        events = it.stream.events()
        for _ in range(UNREAD_MAX * 3 // 4):
            await anext(events)
        assert it.connection.reads == [False, True]
        await it.stream.close()
        with pytest.raises(Unavailable):
            [event async for event in events]

    run(main())


def test_closing_drops_the_connection_and_is_told_once() -> None:
    async def main() -> None:
        it = Opened()
        await it.stream.close()
        await it.stream.close()
        assert it.connection.aborted
        assert it.left == 1
        with pytest.raises(Unavailable) as caught:
            await it.say(0.2)
        assert caught.value.code == "closed"

    run(main())
