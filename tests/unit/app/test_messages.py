"""The text messages of the wire contract: what is taken, what is refused and with which word, what goes out."""

from __future__ import annotations

import msgspec
import pytest

from app.protocol.messages import (
    CONTROL_BYTES_MAX,
    Ack,
    ClientMessage,
    Completed,
    Draining,
    ErrorMessage,
    FinalMessage,
    Flush,
    Flushed,
    MalformedMessage,
    Notice,
    PartialMessage,
    Pause,
    Ping,
    Pong,
    Ready,
    ServerMessage,
    Stop,
    decode_client,
    decode_server,
    encode,
)
from audio.transcript import Word

WORD = Word("cough", 16_000, 24_000, 0.75)
FROM_SERVER: list[tuple[ServerMessage, dict[str, object]]] = [
    (
        Ready("s", 1, 2, 3, "t", {"language": "en-US"}, {"sampleRate": 16_000}),
        {
            "type": "ready", "sessionId": "s", "position": 1, "window": 2, "epoch": 3, "resumeTicket": "t",
            "config": {"language": "en-US"}, "limits": {"sampleRate": 16_000},
        },
    ),
    (Ack(3, 2, 1), {"type": "ack", "received": 3, "durable": 2, "window": 1}),
    (
        PartialMessage("u1", 0, 9, "a cough"),
        {"type": "partial", "id": "u1", "start": 0, "end": 9, "text": "a cough"},
    ),
    (
        FinalMessage(1, "u1", 0, 9, "a cough", (WORD,), "en-US"),
        {
            "type": "final", "seq": 1, "id": "u1", "start": 0, "end": 9, "text": "a cough", "language": "en-US",
            "words": [{"text": "cough", "start": 16_000, "end": 24_000, "confidence": 0.75}],
        },
    ),
    (Flushed(9, 1), {"type": "flushed", "position": 9, "seq": 1}),
    (Notice("transcript_gap", "m", 1, 2), {"type": "notice", "code": "transcript_gap", "message": "m", "from": 1, "to": 2}),
    (Notice("finals_rewound", "m", seq=0), {"type": "notice", "code": "finals_rewound", "message": "m", "seq": 0}),
    (Draining(5), {"type": "draining", "reconnectInMs": 5}),
    (Pong("x"), {"type": "pong", "id": "x"}),
    (ErrorMessage("idle", "m", True), {"type": "error", "code": "idle", "message": "m", "retryable": True}),
    (
        Completed("s", 9, 1, {"archived": [(0, 9)]}, None),
        {
            "type": "completed", "sessionId": "s", "samples": 9, "finals": 1, "coverage": {"archived": [[0, 9]]},
            "audioSha256": None,
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("message", "wire"), FROM_SERVER)
def test_a_server_message_is_what_the_contract_says_and_reads_back(
    message: ServerMessage, wire: dict[str, object]
) -> None:
    assert msgspec.json.decode(encode(message)) == wire
    assert decode_server(encode(message)) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type":"flush"}', Flush()),
        ('{"type":"pause","later":true}', Pause()),
        ('{"type":"stop","position":7}', Stop(7)),
        ('{"type":"stop"}', Stop(None)),
        ('{"type":"ping","id":"a"}', Ping("a")),
        ('{"type":"ping","id":12}', Ping(12)),
    ],
)
def test_a_client_message_is_understood(text: str, message: ClientMessage) -> None:
    assert decode_client(text) == message


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "not_json"),
        ("{", "not_json"),
        ("[]", "unknown_message"),
        ("{}", "unknown_message"),
        ('{"type":"start"}', "unknown_message"),
        ('{"type":"stop","position":-1}', "unknown_message"),
        ('{"type":"stop","position":1.5}', "unknown_message"),
        ('{"type":"stop","position":99999999999999999999}', "unknown_message"),
        ('{"type":"ping","id":{}}', "unknown_message"),
        ('{"type":"ping","id":"' + "x" * CONTROL_BYTES_MAX + '"}', "text_too_long"),
        ("[" * 4000, "unknown_message"),
        ('{"type":"ping","deep":' + "[" * 4000, "not_json"),
    ],
)
def test_anything_else_is_refused_with_its_word(text: str, code: str) -> None:
    with pytest.raises(MalformedMessage) as refused:
        decode_client(text)
    assert refused.value.code == code


def test_a_message_of_a_later_version_is_passed_over_and_a_broken_one_is_not() -> None:
    assert decode_server('{"type":"weather","sun":true}') is None
    with pytest.raises(msgspec.DecodeError):
        decode_server('{"type":"ack","received":"many"}')
    with pytest.raises(msgspec.DecodeError):
        decode_server("no json")
