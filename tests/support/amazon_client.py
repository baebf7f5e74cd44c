"""Streams a PCM file through amazon-transcribe and prints, as one line of JSON, what came of it.

Usage: ``python tests/support/amazon_client.py '{"endpoint", "secret", "pcm", "session", "pace", "patience"}'``. A process of its own, because
the client reads ``SSL_CERT_FILE`` once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from amazon_transcribe.auth import StaticCredentialResolver
from amazon_transcribe.client import TranscribeStreamingClient
from amazon_transcribe.endpoints import StaticEndpointResolver
from amazon_transcribe.exceptions import ServiceException
from amazon_transcribe.model import StartStreamTranscriptionEventStream

CHUNK_BYTES = 3200


async def speak(stream: StartStreamTranscriptionEventStream, pcm: bytes, pace: float) -> None:
    """Send all of it and the end."""
    for at in range(0, len(pcm), CHUNK_BYTES):
        await stream.input_stream.send_audio_event(audio_chunk=pcm[at : at + CHUNK_BYTES])
        await asyncio.sleep(pace)
    await stream.input_stream.end_stream()  # type: ignore[no-untyped-call]


async def transcribe(given: dict[str, Any], pcm: bytes, told: dict[str, Any]) -> None:
    """One stream from its beginning to its end."""
    client = TranscribeStreamingClient(
        region="us-west-2",
        endpoint_resolver=StaticEndpointResolver(given["endpoint"]),  # type: ignore[no-untyped-call]
        credential_resolver=StaticCredentialResolver("AKIDEXAMPLE", given["secret"]),
    )
    stream = await client.start_stream_transcription(
        language_code="en-US",
        media_sample_rate_hz=16_000,
        media_encoding="pcm",
        session_id=given["session"] or None,
    )
    speaking = asyncio.ensure_future(speak(stream, pcm, given["pace"]))
    try:
        async for event in stream.output_stream:
            for result in event.transcript.results:
                if result.is_partial:
                    told["partials"] += 1
                else:
                    told["finals"].append(
                        [result.start_time, result.end_time, result.alternatives[0].transcript]
                    )
    finally:
        speaking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await speaking


async def main(given: dict[str, Any], pcm: bytes) -> None:
    """Transcribe, however it ends, and tell."""
    told: dict[str, Any] = {
        "finals": [],
        "partials": 0,
        "outcome": "finished",
        "error": "",
        "message": "",
        "status": 0,
    }
    try:
        await asyncio.wait_for(transcribe(given, pcm, told), given["patience"])
    except TimeoutError:
        told["outcome"] = "nothing more"
    except ServiceException as error:
        told |= {"outcome": "error", "error": type(error).__name__, "message": str(error)}
    except OSError as error:
        told |= {"outcome": "error", "error": type(error).__name__, "message": str(error)}
    print(json.dumps(told), flush=True)
    # The client's own threads and connections do not end by themselves after a stream that was cut off.
    os._exit(0)


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    asyncio.run(main(request, Path(request["pcm"]).read_bytes()))
