"""The event-stream encoding (application/vnd.amazon.eventstream), written here so that no client library judges itself.

A message: total length and headers' length (4 bytes each, big-endian), CRC-32 of these 8 bytes, headers, payload, CRC-32 of all before it.
A header: 1 byte of name length, name, 1 byte of type, value. Source: the specification "Amazon Event Stream" of Smithy.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple
from zlib import crc32

OVERHEAD: Final = 16
PRELUDE_BYTES: Final = 12
CRC_BYTES: Final = 4
MAX_MESSAGE_BYTES: Final = 128 * 1024
"""Far above what a chunk of audio may be; a longer message is refused before it is collected."""

_PRELUDE: Final = struct.Struct(">III")
_LENGTHS: Final = struct.Struct(">II")
_CRC: Final = struct.Struct(">I")
_NUMBERS: Final = {
    2: struct.Struct(">b"),
    3: struct.Struct(">h"),
    4: struct.Struct(">i"),
    5: struct.Struct(">q"),
}
_TIMESTAMP: Final = struct.Struct(">q")
_LENGTH: Final = struct.Struct(">H")


class Malformed(Exception):
    """These bytes are no event-stream message."""


class Timestamp(int):
    """Milliseconds since 1970 (header type 8)."""


HeaderValue = bool | int | Timestamp | bytes | str | uuid.UUID


class Message(NamedTuple):
    """One message.

    Attributes:
        headers: by name; of immutable values, shared between messages: do not change.
        payload: its body.
    """

    headers: Mapping[str, HeaderValue]
    payload: bytes


def encode_headers(headers: Mapping[str, HeaderValue]) -> bytes:
    """The headers' block, in the mapping's order."""
    return b"".join(_encode_header(name, value) for name, value in headers.items())


def _encode_header(name: str, value: HeaderValue) -> bytes:
    raw = name.encode()
    return bytes((len(raw),)) + raw + _encode_value(value)


def _encode_value(value: HeaderValue) -> bytes:
    match value:
        case bool():
            return b"\x00" if value else b"\x01"
        case Timestamp():
            return b"\x08" + _TIMESTAMP.pack(value)
        case int():
            kind = 4 if -(2**31) <= value < 2**31 else 5
            return bytes((kind,)) + _NUMBERS[kind].pack(value)
        case bytes():
            return b"\x06" + _LENGTH.pack(len(value)) + value
        case str():
            raw = value.encode()
            return b"\x07" + _LENGTH.pack(len(raw)) + raw
        case uuid.UUID():
            return b"\x09" + value.bytes


def decode_headers(block: bytes) -> dict[str, HeaderValue]:
    """The headers of a block.

    Raises:
        Malformed: a name twice, an unknown type, a value cut short.
    """
    headers: dict[str, HeaderValue] = {}
    at = 0
    try:
        while at < len(block):
            begin, at = at + 1, at + 1 + block[at]
            name = block[begin:at].decode()
            if name in headers or at >= len(block):
                raise Malformed(f"header {name} is there twice or has no value")
            headers[name], at = _decode_value(block, at)
    except (IndexError, UnicodeDecodeError, struct.error) as error:
        raise Malformed("a header is cut short or is no text") from error
    return headers


def _decode_value(block: bytes, at: int) -> tuple[HeaderValue, int]:
    kind, at = block[at], at + 1
    if kind <= 1:
        return kind == 0, at
    if kind in _NUMBERS:
        number = _NUMBERS[kind]
        return int(number.unpack_from(block, at)[0]), at + number.size
    if kind == 8:
        return Timestamp(_TIMESTAMP.unpack_from(block, at)[0]), at + 8
    if kind == 9:
        return uuid.UUID(bytes=_cut(block, at, 16)), at + 16
    if kind not in {6, 7}:
        raise Malformed(f"header type {kind} does not exist")
    length = _LENGTH.unpack_from(block, at)[0]
    raw = _cut(block, at + 2, length)
    return (raw if kind == 6 else raw.decode()), at + 2 + length


def _cut(block: bytes, at: int, length: int) -> bytes:
    piece = block[at : at + length]
    if len(piece) != length:
        raise Malformed("a header's value is cut short")
    return piece


_known_headers = lru_cache(maxsize=64)(decode_headers)


def frame(block: bytes, *payload: bytes) -> bytes:
    """A message with an already encoded block of headers; its payload may be in pieces."""
    lengths = _LENGTHS.pack(OVERHEAD + len(block) + sum(map(len, payload)), len(block))
    body = b"".join((lengths, _CRC.pack(crc32(lengths)), block, *payload))
    return body + _CRC.pack(crc32(body))


def encode(headers: Mapping[str, HeaderValue], payload: bytes) -> bytes:
    """A message."""
    return frame(encode_headers(headers), payload)


def split(data: bytes) -> tuple[bytes, bytes]:
    """Headers' block and payload of exactly one message, its CRCs checked.

    Raises:
        Malformed: too short or long, or a CRC is wrong.
    """
    size = len(data)
    if size < OVERHEAD:
        raise Malformed("shorter than a message can be")
    total, headers, prelude_crc = _PRELUDE.unpack_from(data)
    if total != size or headers > size - OVERHEAD:
        raise Malformed("its lengths contradict each other")
    if crc32(data[:8]) != prelude_crc:
        raise Malformed("the prelude's CRC is wrong")
    if crc32(memoryview(data)[:-4]) != _CRC.unpack_from(data, size - 4)[0]:
        raise Malformed("the message's CRC is wrong")
    begin = PRELUDE_BYTES + headers
    return data[PRELUDE_BYTES:begin], data[begin:-4]


def decode(data: bytes) -> Message:
    """Exactly one message.

    Raises:
        Malformed: these bytes are none.
    """
    block, payload = split(data)
    # The blocks of audio messages repeat; those with a signature never do and would only push the others out.
    headers = _known_headers(block) if b":chunk-signature" not in block else decode_headers(block)
    return Message(headers, payload)


class Splitter:
    """Cuts a byte stream into messages. What it holds is bounded by ``MAX_MESSAGE_BYTES`` and the last piece fed."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that are complete now, undecoded, in order.

        Raises:
            Malformed: a message claims an impossible length, or its prelude's CRC is wrong.
        """
        held = self._held + data if self._held else data
        at, self._held = 0, b""
        while len(held) - at >= PRELUDE_BYTES:
            total, _, prelude_crc = _PRELUDE.unpack_from(held, at)
            if crc32(held[at : at + 8]) != prelude_crc or not OVERHEAD <= total <= MAX_MESSAGE_BYTES:
                raise Malformed("a prelude is wrong")
            if len(held) - at < total:
                break
            yield held[at : at + total]
            at += total
        self._held = held[at:]
