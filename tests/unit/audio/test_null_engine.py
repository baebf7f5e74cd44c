from __future__ import annotations

import asyncio

import pytest

from audio.engine import Flushed, StreamRequest, Unavailable
from audio.engines.null import NullEngine
from tests.support.virtual_time import run


@pytest.mark.parametrize("language", ["en-US", "ja-JP", "tlh"])
def test_it_takes_any_language_and_transcribes_nothing(language: str) -> None:
    async def main() -> None:
        engine = NullEngine()
        assert not engine.capabilities.transcribes
        assert not engine.capabilities.languages
        stream = await engine.open(StreamRequest(language, "s"))
        for _ in range(1000):
            await stream.send([memoryview(bytes(3200))])
        await stream.flush()
        await stream.end()
        assert [event async for event in stream.events()] == [Flushed()]

    run(main())


def test_it_has_room_for_a_thousand_streams() -> None:
    async def main() -> None:
        engine = NullEngine()
        streams = [await engine.open(StreamRequest("en-US", str(number))) for number in range(1000)]
        assert engine.has_room()
        for stream in streams:
            await stream.close()

    run(main())


def test_a_closed_stream_lets_its_listener_go() -> None:
    async def main() -> None:
        stream = await NullEngine().open(StreamRequest("en-US", "s"))

        async def listen() -> None:
            with pytest.raises(Unavailable):
                _ = [event async for event in stream.events()]

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(listen())
            await asyncio.sleep(1)
            await stream.close()

    run(main())
