"""The engine over a real connection, with TLS and signatures checked by the emulator, on the loop that the server uses."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import soundfile
import uvloop

from audio.engine import (
    EngineError,
    EngineEvent,
    EngineStream,
    Flushed,
    Rejected,
    Settled,
    StreamRequest,
    StreamResult,
    Throttled,
    Unavailable,
)
from audio.engines.aws import AwsRegion, session_id_of
from audio.engines.aws_credentials import BotocoreCredentials
from audio.engines.aws_errors import PERMISSION
from audio.engines.aws_options import AwsLimits, AwsOptions
from audio.engines.aws_signing import Credentials
from audio.pcm import SAMPLE_RATE, samples_of
from tests.support.aws_emulator import Emulator, Static, started

SAMPLE = Path(__file__).parents[1] / "data" / "consultation.wav"
REQUEST = StreamRequest(language="en-US", session="0193f0a0-0000-7000-8000-000000000001")
FRAME = 3200


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with started(tmp_path_factory.mktemp("emulator"), "--max-starts-per-second", "1000") as it:
        yield it


@pytest.fixture(autouse=True)
def nothing_armed(emulator: Emulator) -> Iterator[None]:
    yield
    emulator.disarm()


@pytest.fixture(scope="module")
def speech() -> bytes:
    """Twelve seconds of the sample."""
    sound, rate = soundfile.read(SAMPLE, dtype="int16", frames=12 * SAMPLE_RATE)
    assert rate == SAMPLE_RATE
    return bytes(sound.tobytes())


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run it on uvloop; no task, no socket and no timer of a stream may be left."""

    async def checked() -> None:
        before = sockets()
        await main
        # Transports tell of their end in the loop's next turns.
        for _ in range(20):
            if sockets() <= before:
                break
            await asyncio.sleep(0.05)
        assert sockets() <= before
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(checked())


def sockets() -> int:
    """TCP sockets of this process."""
    return len(psutil.Process(os.getpid()).net_connections("tcp"))


class Listener:
    """Collects what a stream reports."""

    def __init__(self, stream: EngineStream) -> None:
        self.events: list[EngineEvent] = []
        self._stream = stream
        self._changed = asyncio.Event()

    async def listen(self) -> None:
        async for event in self._stream.events():
            self.events.append(event)
            self._changed.set()

    async def until(self, event: EngineEvent) -> None:
        while event not in self.events:
            self._changed.clear()
            await self._changed.wait()


async def send(stream: EngineStream, pcm: bytes, frame: int = FRAME) -> None:
    for at in range(0, len(pcm), frame):
        await stream.send([memoryview(pcm)[at : at + frame]])


async def collect(stream: EngineStream) -> list[EngineEvent]:
    return [event async for event in stream.events()]


async def converse(engine: AwsRegion, pcm: bytes, frame: int = FRAME) -> list[EngineEvent]:
    """Everything a stream reports of ``pcm``; raises what it ends by."""
    stream = await engine.open(REQUEST)
    try:
        listening = asyncio.ensure_future(collect(stream))
        try:
            await send(stream, pcm, frame)
            await stream.end()
        except EngineError:
            await asyncio.wait([listening])
        return await listening
    finally:
        await stream.close()


def finals_of(events: list[EngineEvent]) -> list[StreamResult]:
    return [event for event in events if isinstance(event, StreamResult) and event.final]


def said(events: list[EngineEvent]) -> list[tuple[int, int, str, object]]:
    """Finals without their ids, which differ from stream to stream."""
    return [(final.start, final.end, final.text, final.words) for final in finals_of(events)]


def test_a_transcription(emulator: Emulator, speech: bytes) -> None:
    async def main() -> None:
        engine = emulator.engine()
        events = await converse(engine, speech)
        finals = finals_of(events)
        assert len(finals) >= 2
        edges = [edge for final in finals for edge in (final.start, final.end)]
        assert edges == sorted(edges)
        assert all(0 <= edge <= samples_of(len(speech)) for edge in edges)
        for final in finals:
            assert final.text.split() == [word.text for word in final.words]
            assert all(final.start <= word.start < word.end <= final.end for word in final.words)
            assert all(0.0 < word.confidence <= 1.0 for word in final.words)
        settled = [event.position for event in events if isinstance(event, Settled)]
        assert settled == sorted(settled)
        assert settled[-1] == finals[-1].end
        assert any(isinstance(event, StreamResult) and not event.final for event in events)
        assert said(await converse(engine, speech, frame=640)) == said(events)
        await engine.close()

    run(main())


def test_options_reach_the_service(emulator: Emulator, speech: bytes) -> None:
    options = AwsOptions(
        language_options=("ja-JP", "en-US"),
        code_switching=True,
        vocabulary_filter="rude",
        vocabulary_filter_method="mask",
        stability="high",
    )

    async def main() -> None:
        engine = emulator.engine(options=options)
        request = StreamRequest("ja-JP", REQUEST.session, vocabulary="cardiology", speaker_labels=True)
        stream = await engine.open(request)
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(collect(stream))
            await send(stream, speech)
            await stream.end()
        finals = finals_of(listening.result())
        assert {final.language for final in finals} <= {"ja-JP", "en-US"}
        assert {word.speaker for final in finals for word in final.words} <= {"0", "1"}
        assert all(final.language and final.words[0].speaker for final in finals)
        await engine.close()

    run(main())


def test_a_flush_is_answered_after_the_final_and_times_go_on_without_the_silence(
    emulator: Emulator, speech: bytes
) -> None:
    async def main() -> None:
        engine = emulator.engine()
        whole = finals_of(await converse(engine, speech))
        cut = whole[0].end * 2 + FRAME
        stream = await engine.open(REQUEST)
        async with asyncio.TaskGroup() as tasks:
            listener = Listener(stream)
            tasks.create_task(listener.listen())
            await send(stream, speech[:cut])
            await stream.flush()
            async with asyncio.timeout(4):
                await listener.until(Flushed())
            await send(stream, speech[cut:])
            await stream.end()
        await stream.close()
        events = listener.events
        at = events.index(Flushed())
        assert [final.text for final in finals_of(events[:at])] == [whole[0].text]
        assert [(f.start, f.end) for f in finals_of(events)][1:] == [(f.start, f.end) for f in whole[1:]]
        await engine.close()

    run(main())


@pytest.mark.parametrize(
    ("name", "message", "kind", "code"),
    [
        ("LimitExceededException", None, Throttled, "limit_exceeded"),
        ("InternalFailureException", None, Unavailable, "internal_failure"),
        ("ServiceUnavailableException", None, Unavailable, "service_unavailable"),
        ("ConflictException", None, Unavailable, "conflict"),
        ("BadRequestException", None, Rejected, "bad_request"),
        (
            "BadRequestException",
            "Your request timed out because no new audio was received.",
            Unavailable,
            "audio_timeout",
        ),
    ],
)
def test_exceptions_in_the_stream(
    emulator: Emulator, speech: bytes, *, name: str, message: str | None, kind: type[EngineError], code: str
) -> None:
    async def main() -> None:
        engine = emulator.engine()
        fault = {"exception": name, "after_seconds": 4.0}
        emulator.arm("exception", **(fault if message is None else fault | {"message": message}))
        with pytest.raises(kind) as caught:
            await converse(engine, speech)
        assert caught.value.code == code
        await engine.close()

    run(main())


@pytest.mark.parametrize(
    ("fault", "code"),
    [("drop", "connection_lost"), ("tcp-rst", "connection_lost"), ("goaway", "closed_abnormally")],
)
def test_a_connection_that_breaks_is_an_error(
    emulator: Emulator, speech: bytes, fault: str, code: str
) -> None:
    async def main() -> None:
        engine = emulator.engine()
        emulator.arm(fault, after_seconds=4.0)
        with pytest.raises(Unavailable) as caught:
            await converse(engine, speech)
        assert caught.value.code == code
        await engine.close()

    run(main())


def test_a_clean_close_by_the_service_ends_the_events(emulator: Emulator, speech: bytes) -> None:
    async def main() -> None:
        engine = emulator.engine()
        emulator.arm("close", after_seconds=4.0)
        stream = await engine.open(REQUEST)
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(collect(stream))
            with pytest.raises(Unavailable) as caught:
                await send(stream, 100 * speech)
        assert caught.value.code == "closed_by_engine"
        assert all(final.end <= 5 * SAMPLE_RATE for final in finals_of(listening.result()))
        await engine.close()

    run(main())


@pytest.mark.parametrize(("fault", "code"), [("drop-before-headers", "dropped"), ("hang", "open_timeout")])
def test_a_connection_that_never_opens(emulator: Emulator, fault: str, code: str) -> None:
    async def main() -> None:
        engine = emulator.engine(limits=AwsLimits(open=1.0))
        emulator.arm(fault)
        with pytest.raises(Unavailable) as caught:
            await engine.open(REQUEST)
        assert caught.value.code == code
        await engine.close()

    run(main())


def test_a_caller_who_gives_up_while_it_opens_leaves_nothing(emulator: Emulator) -> None:
    async def main() -> None:
        engine = emulator.engine()
        emulator.arm("hang")
        opening = asyncio.ensure_future(engine.open(REQUEST))
        await asyncio.sleep(0.3)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await asyncio.sleep(0.2)
        assert emulator.call("GET", "/counters")["open_streams"] == 0
        await engine.close()

    run(main())


def test_throttling_is_told_by_the_stream(emulator: Emulator, speech: bytes) -> None:
    async def main() -> None:
        engine = emulator.engine()
        emulator.arm("throttle")
        with pytest.raises(Throttled):
            await converse(engine, speech)
        await engine.close()

    run(main())


def test_refusals_before_the_upgrade(tmp_path: Path) -> None:
    with started(tmp_path, "--refuse-by-status", "--max-streams", "1") as emulator:

        async def main() -> None:
            engine = emulator.engine()
            stream = await engine.open(REQUEST)
            with pytest.raises(Throttled):
                await engine.open(REQUEST)
            await stream.close()
            strangers = emulator.engine(credentials=Static(Credentials("AKIDOTHER", "SECRET")))
            with pytest.raises(Rejected) as caught:
                await strangers.open(REQUEST)
            assert caught.value.code == "credentials_unknown"
            emulator.arm("refuse", exception="AccessDeniedException")
            with pytest.raises(Rejected) as caught:
                await engine.open(REQUEST)
            assert PERMISSION in str(caught.value)
            emulator.arm("refuse", exception="ServiceUnavailableException")
            with pytest.raises(Throttled):
                await engine.open(REQUEST)
            emulator.arm("refuse", exception="InternalFailureException")
            with pytest.raises(Unavailable):
                await engine.open(REQUEST)
            await engine.close()

        run(main())


def test_a_wrong_secret_and_a_wrong_clock_are_told_apart(tmp_path: Path) -> None:
    with started(tmp_path, "--refuse-by-status") as emulator:

        async def main() -> None:
            forger = emulator.engine(credentials=Static(Credentials("AKIDEXAMPLE", "WRONG")))
            with pytest.raises(Rejected) as caught:
                await forger.open(REQUEST)
            assert caught.value.code == "signature"
            late = emulator.engine(now=lambda: datetime.now(UTC) - timedelta(hours=1))
            with pytest.raises(Rejected) as caught:
                await late.open(REQUEST)
            # Without a date in the answer the clock can only be suspected.
            assert caught.value.code in ("clock_skew", "signature")
            await forger.close()
            await late.close()

        run(main())


def test_a_service_that_is_not_there_or_not_trusted(emulator: Emulator) -> None:
    async def main() -> None:
        untrusting = emulator.engine(context=ssl.create_default_context())
        with pytest.raises(Unavailable) as caught:
            await untrusting.open(REQUEST)
        assert caught.value.code == "untrusted"
        nowhere = emulator.engine(endpoint="wss://localhost:1")
        with pytest.raises(Unavailable) as caught:
            await nowhere.open(REQUEST)
        assert caught.value.code == "unreachable"
        await untrusting.close()
        await nowhere.close()

    run(main())


def test_a_service_that_reads_nothing_holds_the_sender_and_then_is_dead(
    emulator: Emulator, speech: bytes
) -> None:
    async def main() -> None:
        engine = emulator.engine(limits=AwsLimits(send=1.0))
        emulator.arm("stall", after_seconds=1.0, seconds=30.0)
        stream = await engine.open(REQUEST)
        with pytest.raises(Unavailable) as caught:
            await send(stream, 40 * speech)
        assert caught.value.code == "send_timeout"
        await engine.close()

    run(main())


def test_a_slow_service_slows_the_sender_and_loses_nothing(emulator: Emulator, speech: bytes) -> None:
    async def main() -> None:
        engine = emulator.engine()
        usual = said(await converse(engine, speech))
        emulator.arm("slow", bytes_per_second=200_000, factor=5.0)
        assert said(await converse(engine, speech)) == usual
        await engine.close()

    run(main())


def test_a_quiet_client_outlives_the_services_patience(tmp_path: Path, speech: bytes) -> None:
    with started(tmp_path, "--idle-seconds", "1.0") as emulator:

        async def main() -> None:
            engine = emulator.engine(limits=AwsLimits(keepalive=0.5, tick=0.1))
            usual = finals_of(await converse(engine, speech))
            stream = await engine.open(REQUEST)
            async with asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(collect(stream))
                border = (usual[0].end + usual[1].start) // 2 * 2
                await send(stream, speech[:border])
                await asyncio.sleep(3)
                await send(stream, speech[border:])
                await stream.end()
            await stream.close()
            finals = finals_of(listening.result())
            assert [(f.start, f.end, f.text) for f in finals] == [(f.start, f.end, f.text) for f in usual]
            impatient = emulator.engine(limits=AwsLimits(keepalive=60.0))
            idle = await impatient.open(REQUEST)
            with pytest.raises(Unavailable) as caught:
                await collect(idle)
            assert caught.value.code == "audio_timeout"
            await engine.close()
            await impatient.close()

        run(main())


def test_an_old_stream_asks_to_be_replaced(emulator: Emulator, speech: bytes) -> None:
    async def main() -> None:
        engine = emulator.engine(limits=AwsLimits(replace=0.5, tick=0.1))
        stream = await engine.open(REQUEST)
        events = await collect(stream)
        assert events == []
        with pytest.raises(Unavailable) as caught:
            await send(stream, speech)
        assert caught.value.code == "closed_by_engine"
        await engine.close()

    run(main())


def test_closing_the_engine_ends_its_streams_and_it_opens_no_more(emulator: Emulator, speech: bytes) -> None:
    async def main() -> None:
        engine = emulator.engine()
        streams = [await engine.open(REQUEST) for _ in range(3)]
        assert engine.has_room()
        listening = [asyncio.ensure_future(collect(stream)) for stream in streams]
        await send(streams[0], speech)
        await engine.close()
        await engine.close()
        for ended in await asyncio.gather(*listening, return_exceptions=True):
            assert isinstance(ended, Unavailable)
            assert ended.code == "closed"
        assert not engine.has_room()
        with pytest.raises(Unavailable):
            await engine.open(REQUEST)

    run(main())


def test_credentials_come_from_botocores_chain(
    emulator: Emulator, speech: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETEXAMPLE")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)

    async def main() -> None:
        engine = emulator.engine(credentials=BotocoreCredentials())
        assert finals_of(await converse(engine, speech))
        await engine.close()

    run(main())


def test_credentials_that_take_too_long_cost_no_stream(emulator: Emulator) -> None:
    class Slow:
        async def fresh(self) -> Credentials:
            await asyncio.sleep(60)
            raise AssertionError

    async def main() -> None:
        engine = emulator.engine(credentials=Slow(), limits=AwsLimits(credentials=0.2))
        with pytest.raises(Unavailable) as caught:
            await engine.open(REQUEST)
        assert caught.value.code == "credentials_timeout"
        await engine.close()

    run(main())


def test_addresses_and_what_was_said_are_in_no_log(
    emulator: Emulator, speech: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        engine = emulator.engine()
        with caplog.at_level(logging.INFO):
            finals = finals_of(await converse(engine, speech))
        await engine.close()
        assert "Signature" not in caplog.text
        assert all(
            word.text not in caplog.text for final in finals for word in final.words if len(word.text) > 4
        )

    run(main())


def test_a_streams_id_is_its_sessions_but_for_the_end() -> None:
    from uuid import UUID

    fresh = UUID("ffffffff-ffff-4fff-bfff-123456789abc")
    assert session_id_of(REQUEST.session, fresh) == "0193f0a0-0000-7000-8000-123456789abc"
    assert session_id_of("demo", fresh) == str(fresh)
