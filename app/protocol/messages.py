"""The text messages of ``kikitori.v1``: one struct each, one JSON object on the wire, told apart by ``type``.

All positions are samples at 16 kHz since the session began.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, get_args

import msgspec
from msgspec import Meta

from audio.transcript import CommittedFinal, Partial, Word

PROTOCOL: Final = "kikitori.v1"
CONTROL_BYTES_MAX: Final = 4096
"""A text frame of a client is one small object; anything longer is malformed."""


class MalformedMessage(ValueError):
    """A frame that the contract does not know; ``code`` is the stable word of the error message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


# Client to server -----------------------------------------------------------------------------


class Flush(msgspec.Struct, frozen=True, tag="flush"):
    """Make final what was said so far."""


class Pause(msgspec.Struct, frozen=True, tag="pause"):
    """No audio will come for a while; audio resumes it."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """End the session at ``position``, or where the audio ends when it is left out."""

    position: Annotated[int, Meta(ge=0, le=2**53)] | None = None


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Answered by ``pong`` with the same ``id``."""

    id: Annotated[str, Meta(max_length=200)] | Annotated[int, Meta(ge=-(2**53), le=2**53)] | None = None


ClientMessage = Flush | Pause | Stop | Ping


# Server to client -----------------------------------------------------------------------------


class Ready(msgspec.Struct, frozen=True, tag="ready", rename="camel"):
    """Once and first: audio continues from exactly ``position``."""

    session_id: str
    position: int
    window: int
    epoch: int
    resume_ticket: str
    config: dict[str, Any]
    limits: dict[str, int]


class Ack(msgspec.Struct, frozen=True, tag="ack"):
    """What arrived, what survives, and how far beyond ``received`` the client may go."""

    received: int
    durable: int
    window: int


class PartialMessage(msgspec.Struct, frozen=True, tag="partial", omit_defaults=True):
    """A result that may still change."""

    id: str
    start: int
    end: int
    text: str
    words: tuple[Word, ...] = ()
    language: str | None = None


class FinalMessage(msgspec.Struct, frozen=True, tag="final"):
    """A result that will not change."""

    seq: int
    id: str
    start: int
    end: int
    text: str
    words: tuple[Word, ...]
    language: str


class Flushed(msgspec.Struct, frozen=True, tag="flushed"):
    """Answer to ``flush``: everything before ``position`` is in finals up to ``seq``."""

    position: int
    seq: int


class Notice(
    msgspec.Struct, frozen=True, tag="notice", omit_defaults=True, rename={"start": "from", "end": "to"}
):
    """Something the speaker should know; ``start`` and ``end`` go as ``from`` and ``to``."""

    code: str
    message: str
    start: int | None = None
    end: int | None = None
    seq: int | None = None


class Draining(msgspec.Struct, frozen=True, tag="draining", rename="camel"):
    """This task goes away: keep sending until 1012, then resume on any task."""

    reconnect_in_ms: int


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """Answer to ``ping``."""

    id: str | int | None = None


class ErrorMessage(msgspec.Struct, frozen=True, tag="error"):
    """Always before a close with a 4xxx code."""

    code: str
    message: str
    retryable: bool


class Completed(
    msgspec.Struct,
    frozen=True,
    tag="completed",
    rename={"session_id": "sessionId", "audio_sha256": "audioSha256"},
):
    """Every final was sent, everything is durable. ``audio_sha256`` is that of the PCM, null where none is kept."""

    session_id: str
    samples: int
    finals: int
    coverage: dict[str, list[tuple[int, int]]]
    audio_sha256: str | None


ServerMessage = (
    Ready
    | Ack
    | PartialMessage
    | FinalMessage
    | Flushed
    | Notice
    | Draining
    | Pong
    | ErrorMessage
    | Completed
)

SERVER_TYPES: Final = frozenset(str(kind.__struct_config__.tag) for kind in get_args(ServerMessage))


class _Typed(msgspec.Struct):
    type: str


_encoder = msgspec.json.Encoder()
_type_decoder: msgspec.json.Decoder[_Typed] = msgspec.json.Decoder(_Typed)
_client_decoder: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)
_server_decoder: msgspec.json.Decoder[ServerMessage] = msgspec.json.Decoder(ServerMessage)


def encode(message: ServerMessage | ClientMessage) -> str:
    """The text frame of a message."""
    return _encoder.encode(message).decode()


def decode_client(text: str) -> ClientMessage:
    """The message in a client's text frame; unknown fields are ignored.

    Raises:
        MalformedMessage: too long, no JSON, of an unknown type, or with a field out of its range.
    """
    if len(text) > CONTROL_BYTES_MAX:
        raise MalformedMessage(
            "text_too_long", f"a text frame holds one object of at most {CONTROL_BYTES_MAX} characters"
        )
    try:
        return _client_decoder.decode(text)
    except msgspec.ValidationError:
        raise MalformedMessage(
            "unknown_message", "the type must be flush, pause, stop or ping, with its fields in range"
        ) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise MalformedMessage("not_json", "a text frame must be one JSON object") from None


def decode_server(text: str | bytes) -> ServerMessage | None:
    """The message in a server's text frame, or None for one of a type that a later version added.

    Raises:
        msgspec.DecodeError: it is no message, or a known one with a field out of its range.
    """
    try:
        return _server_decoder.decode(text)
    except msgspec.ValidationError:
        if _type_decoder.decode(text).type in SERVER_TYPES:
            raise
        return None


def partial_message(partial: Partial) -> PartialMessage:
    """A partial as it goes to clients."""
    return PartialMessage(
        partial.id, partial.start, partial.end, partial.text, partial.words, partial.language
    )


def final_message(committed: CommittedFinal) -> FinalMessage:
    """A committed final as it goes to clients."""
    final = committed.final
    return FinalMessage(
        committed.seq, final.id, final.start, final.end, final.text, final.words, final.language
    )


def stream_path(session_id: str) -> str:
    """Path of a speaker's WebSocket."""
    return f"/v1/sessions/{session_id}/stream"


def events_path(session_id: str | None) -> str:
    """Path and query of an observer's WebSocket; without a session, the whole clinic's."""
    return f"/v1/events?session={session_id}" if session_id else "/v1/events"
