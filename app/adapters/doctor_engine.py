"""The doctor's check of a speech engine: one second of silence through the engine that the server uses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from app.adapters.doctor_finding import Check, Finding, carried_out, ok
from app.adapters.doctor_refusals import of_engine
from audio.engine import Engine, EngineError, StreamRequest
from audio.pcm import SAMPLE_BYTES, SAMPLE_RATE


async def engine_findings(
    engines: Mapping[str, Engine], language: str, new_id: Callable[[], str]
) -> AsyncIterator[Finding]:
    """Each engine by its name. They are closed by their owner."""
    checks = [Check(name, _hearing(name, engine, language, new_id)) for name, engine in engines.items()]
    async for finding in carried_out(checks or [Check("engine", _none)]):
        yield finding


async def _none() -> Finding:
    return ok("engine", "null: sessions are recorded, nothing is transcribed")


def _hearing(
    name: str, engine: Engine, language: str, new_id: Callable[[], str]
) -> Callable[[], Awaitable[Finding]]:
    async def run() -> Finding:
        try:
            await _hear_silence(engine, StreamRequest(language=language, session=new_id()))
        except EngineError as error:
            return of_engine(name, error)
        return ok(name, "it heard one second of silence to its end")

    return run


async def _hear_silence(engine: Engine, request: StreamRequest) -> None:
    stream = await engine.open(request)
    try:
        await stream.send([memoryview(bytes(SAMPLE_RATE * SAMPLE_BYTES))])
        await stream.end()
        async for _ in stream.events():
            pass
    finally:
        await stream.close()
