from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import pytest
from amazon_transcribe.eventstream import EventStreamMessageSerializer
from botocore.eventstream import EventStreamBuffer

from audio.engines.aws_events import (
    END_OF_STREAM,
    Item,
    MalformedEvent,
    Result,
    ServiceError,
    audio_event,
    decode,
    event_message,
    message_of,
)

AUDIO_HEADERS: dict[str, Any] = {
    ":content-type": "application/octet-stream",
    ":event-type": "AudioEvent",
    ":message-type": "event",
}


def transcript(*results: dict[str, Any]) -> bytes:
    return event_message("TranscriptEvent", json.dumps({"Transcript": {"Results": results}}).encode())


def exception(name: str, payload: bytes) -> bytes:
    headers = {":content-type": "application/json", ":exception-type": name, ":message-type": "exception"}
    return message_of(headers, payload)


@pytest.mark.parametrize("size", [0, 320, 3200, 6400])
def test_audio_is_what_the_sdk_would_send_unsigned(size: int) -> None:
    pcm = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert audio_event(pcm) == EventStreamMessageSerializer().serialize(AUDIO_HEADERS, pcm)


def test_botocore_reads_what_is_sent() -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(audio_event(memoryview(b"\x01\x02" * 1600)) + END_OF_STREAM)
    first, last = list(buffer)
    assert (first.headers, first.payload) == (AUDIO_HEADERS, b"\x01\x02" * 1600)
    assert (last.headers, last.payload) == (AUDIO_HEADERS, b"")


def test_a_transcript_is_read_with_all_that_is_used_of_it() -> None:
    item = {"Content": "hello", "Type": "pronunciation", "StartTime": 0.1, "EndTime": 0.4, "Confidence": 0.97}
    word = item | {"Speaker": "0", "Stable": True, "VocabularyFilterMatch": False}
    mark = {"Content": ",", "Type": "punctuation", "StartTime": 0.4, "EndTime": 0.4}
    result = {
        "ResultId": "a",
        "StartTime": 0.1,
        "EndTime": 0.4,
        "IsPartial": False,
        "Alternatives": [{"Transcript": "hello,", "Items": [word, mark], "Entities": []}],
        "LanguageCode": "en-US",
        "LanguageIdentification": [{"LanguageCode": "en-US", "Score": 0.9}],
    }
    (read,) = decode(transcript(result))  # type: ignore[misc]
    assert isinstance(read, Result)
    assert (read.result_id, read.start_time, read.end_time, read.is_partial) == ("a", 0.1, 0.4, False)
    assert read.language_code == "en-US"
    assert read.alternatives[0].transcript == "hello,"
    assert read.alternatives[0].items == (
        Item("hello", "pronunciation", 0.1, 0.4, 0.97, "0"),
        Item(",", "punctuation", 0.4, 0.4),
    )


@pytest.mark.parametrize("message", [transcript(), event_message("SomethingNew", b"{}")])
def test_other_events_and_empty_transcripts_hold_no_results(message: bytes) -> None:
    assert decode(message) == ()


def test_an_exception_is_read() -> None:
    assert decode(exception("ConflictException", b'{"Message":"why"}')) == ServiceError(
        "ConflictException", "why"
    )
    assert decode(exception("ConflictException", b"not json")) == ServiceError("ConflictException", "")
    assert decode(message_of({":message-type": "error", ":error-code": "500"}, b"")) == ServiceError(
        "500", ""
    )


def test_every_damaged_byte_is_noticed() -> None:
    message = transcript({"ResultId": "a"})
    for at in range(len(message)):
        damaged = bytearray(message)
        damaged[at] ^= 0x40
        with pytest.raises(MalformedEvent):
            decode(bytes(damaged))


@pytest.mark.parametrize("cut", [0, 4, 15, 40, -1])
def test_a_message_that_is_cut_off_is_noticed(cut: int) -> None:
    with pytest.raises(MalformedEvent):
        decode(transcript({"ResultId": "a"})[:cut])


def framed(headers: bytes, payload: bytes = b"{}") -> bytes:
    lengths = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    start = lengths + struct.pack(">I", zlib.crc32(lengths)) + headers + payload
    return start + struct.pack(">I", zlib.crc32(start))


@pytest.mark.parametrize(
    "headers",
    [b"", b"\x01a", b"\x01a\x00", b"\x01a\x07\x00\x05xx", b"\xffabc", b"\x01\xff\x07\x00\x01x", b"\x01a\x07"],
)
def test_headers_that_make_no_sense_are_noticed(headers: bytes) -> None:
    with pytest.raises(MalformedEvent):
        decode(framed(headers))


def test_a_transcript_that_is_none_is_noticed_and_not_quoted() -> None:
    with pytest.raises(MalformedEvent) as caught:
        decode(event_message("TranscriptEvent", b'{"Transcript":{"Results":["the patient said"]}}'))
    assert "patient" not in str(caught.value)
    assert caught.value.__cause__ is None
