"""The client side of Amazon Transcribe: ``python -m loadtest.bench.aws_client [NAME ...] [--streams 200] [--chunk-ms 100]``.

Prints CPU milliseconds for each second of a stream and memory for each stream, TLS included, against a peer in another process that
answers each 200 ms of audio with a result of about 600 bytes. Names: ``engine`` is what the server uses; ``picows`` (with uvloop's
TLS), ``picows-aiofastnet`` (with its own) and ``websockets`` are bare sockets with the engine's codec; ``codec`` compares ways to decode.
The bare sockets say what the engine adds. Each is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path

import picows
import psutil
import uvloop
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websockets_connect

from audio.engine import EngineStream, StreamRequest
from audio.engines.aws import AwsRegion
from audio.engines.aws_events import audio_event, decode
from audio.engines.aws_signing import Credentials
from audio.pcm import SAMPLE_RATE, bytes_of
from loadtest.bench._aws_peer import Peer, make_certificate, results, trusting

Speak = Callable[[bytes], Awaitable[None]]
Connected = tuple[Speak, Callable[[], Coroutine[None, None, None]]]
"""Sends a chunk; listens until it is cancelled."""

DECODED = 20_000


class _Static:
    async def fresh(self) -> Credentials:
        return Credentials("AKIDEXAMPLE", "SECRETEXAMPLE")


class _Listener(picows.WSListener):
    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == picows.WSMsgType.BINARY:
            decode(frame.get_payload_as_memoryview())


def _picows(endpoint: str, context: ssl.SSLContext, *, own_tls: bool) -> Callable[[], Awaitable[Connected]]:
    async def connect() -> Connected:
        transport, _ = await picows.ws_connect(
            _Listener,
            f"{endpoint}/",
            ssl_context=context,
            use_aiofastnet=own_tls,
            websocket_handshake_timeout=60,
        )

        async def speak(pcm: bytes) -> None:
            transport.send(picows.WSMsgType.BINARY, audio_event(pcm))

        async def listen() -> None:
            await transport.wait_disconnected()

        return speak, listen

    return connect


def _websockets(endpoint: str, context: ssl.SSLContext) -> Callable[[], Awaitable[Connected]]:
    async def connect() -> Connected:
        connection: ClientConnection = await websockets_connect(
            f"{endpoint}/", ssl=context, compression=None, ping_interval=None
        )

        async def speak(pcm: bytes) -> None:
            await connection.send(audio_event(pcm))

        async def listen() -> None:
            async for message in connection:
                assert isinstance(message, bytes)
                decode(message)

        return speak, listen

    return connect


def _engine(endpoint: str, context: ssl.SSLContext) -> Callable[[], Awaitable[Connected]]:
    engine = AwsRegion(
        "us-east-1",
        endpoint=endpoint,
        context=context,
        credentials=_Static(),
        now=lambda: datetime.now(UTC),
    )

    async def connect() -> Connected:
        stream: EngineStream = await engine.open(StreamRequest(language="en-US", session="bench"))

        async def speak(pcm: bytes) -> None:
            await stream.send([memoryview(pcm)])

        async def listen() -> None:
            async for _ in stream.events():
                pass

        return speak, listen

    return connect


async def _speak(speak: Speak, pcm: bytes, first: float, count: int, every: float) -> None:
    loop = asyncio.get_running_loop()
    for at in range(count):
        await asyncio.sleep(max(0.0, first + at * every - loop.time()))
        await speak(pcm)


async def measure(name: str, streams: int, seconds: float, chunk: float) -> None:
    """Measure one client and print its line."""
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        peer = Peer(certificate)
        context, endpoint = trusting(certificate), f"wss://localhost:{peer.port}"
        connect = {
            "engine": _engine(endpoint, context),
            "picows": _picows(endpoint, context, own_tls=False),
            "picows-aiofastnet": _picows(endpoint, context, own_tls=True),
            "websockets": _websockets(endpoint, context),
        }[name]
        try:
            await _run(name, connect, streams, seconds, chunk)
        finally:
            peer.stop()


async def _run(
    name: str, connect: Callable[[], Awaitable[Connected]], streams: int, seconds: float, chunk: float
) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    connected = [await connect() for _ in range(streams)]
    pcm = os.urandom(bytes_of(round(chunk * SAMPLE_RATE)))
    now = asyncio.get_running_loop().time() + 0.5
    async with asyncio.TaskGroup() as tasks:
        listening = [tasks.create_task(listen()) for _, listen in connected]
        began = time.process_time()
        async with asyncio.TaskGroup() as speaking:
            for at, (speak, _) in enumerate(connected):
                first = now + chunk * at / streams
                speaking.create_task(_speak(speak, pcm, first, round(seconds / chunk), chunk))
        used = time.process_time() - began
        grown = process.memory_info().rss - before
        for task in listening:
            task.cancel()
    print(
        f"{name}: {used * 1000 / streams / seconds:.3f} ms CPU per stream-second, {grown / 1024 / streams:.0f} KB per stream "
        f"({streams} streams, {chunk * 1000:.0f} ms chunks, {seconds:.0f} s)",
        flush=True,
    )


def codec() -> None:
    """Compare decoders on an event of five words."""
    from amazon_transcribe.deserialize import TranscribeStreamingEventParser
    from amazon_transcribe.eventstream import EventStreamBuffer as SdkBuffer
    from botocore.eventstream import EventStreamBuffer

    message = results()[9]
    view = memoryview(message)
    parser = TranscribeStreamingEventParser()

    def botocore_and_json() -> None:
        buffer = EventStreamBuffer()
        buffer.add_data(message)
        json.loads(next(buffer).payload)

    def amazon_transcribe() -> None:
        buffer = SdkBuffer()  # type: ignore[no-untyped-call]
        buffer.add_data(message)
        parser.parse(next(buffer))

    ways: dict[str, Callable[[], object]] = {
        "own decoder, msgspec": lambda: decode(view),
        "botocore's parser, json": botocore_and_json,
        "amazon-transcribe": amazon_transcribe,
    }
    for name, way in ways.items():
        began = time.process_time()
        for _ in range(DECODED):
            way()
        used = (time.process_time() - began) / DECODED * 1e6
        print(f"codec, {name}: {used:.1f} µs CPU for an event of {len(message)} bytes")


SOCKETS = ("engine", "picows", "picows-aiofastnet", "websockets")


def main() -> None:
    """Read the command line; measure what is named, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join((*SOCKETS, 'codec'))}; default: all")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--chunk-ms", type=float, default=100.0)
    options = parser.parse_args()
    if unknown := set(options.names) - {*SOCKETS, "codec"}:
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    if options.names == ["codec"]:
        codec()
    elif len(options.names) == 1:
        uvloop.run(measure(options.names[0], options.streams, options.seconds, options.chunk_ms / 1000))
    else:
        for name in options.names or (*SOCKETS, "codec"):
            arguments = ["--streams", str(options.streams), "--seconds", str(options.seconds)]
            arguments += ["--chunk-ms", str(options.chunk_ms)]
            command = [sys.executable, "-m", "loadtest.bench.aws_client", name, *arguments]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
