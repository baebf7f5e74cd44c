"""From event-stream messages to audio: signed ones, one within the other, and the unsigned ones of the WebSocket interface.

Source: "Setting up a streaming transcription" of Amazon Transcribe's developer guide.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from itertools import permutations
from types import MappingProxyType
from typing import Final
from zlib import crc32

from loadtest.emulator.eventstream import (
    CRC_BYTES,
    PRELUDE_BYTES,
    Malformed,
    Timestamp,
    decode,
    encode_headers,
    split,
)
from loadtest.emulator.problems import UNDECODABLE, Kind, ServiceError, bad_request
from loadtest.emulator.sigv4 import SKEW, STAMP, Caller, check_time, hmac_sha256, signing_key

CHUNK_ALGORITHM: Final = "AWS4-HMAC-SHA256-PAYLOAD"
AUDIO_HEADERS: Final = MappingProxyType(
    {":message-type": "event", ":event-type": "AudioEvent", ":content-type": "application/octet-stream"}
)
_AUDIO_BLOCKS: Final = frozenset(encode_headers(dict(order)) for order in permutations(AUDIO_HEADERS.items()))
_LAST_DATE_MS: Final = 2**42
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=64)
def _stamp(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).strftime(STAMP)


class Chain:
    """The signatures of a stream's messages, each of which covers the one before it.

    Args:
        caller: who signed the request with which the chain begins.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._prior = caller.seed.hex()

    def check(self, date: Timestamp, payload: bytes, given: bytes, now: float) -> None:
        """Go one message on.

        Args:
            date: its ``:date``, the only header that is signed.
            payload: its body, itself a message, or empty.
            given: its ``:chunk-signature``.
            now: seconds since 1970.

        Raises:
            ServiceError: BadRequestException, as the service has it; the signature is wrong, or more than 5 minutes off.
        """
        if not 0 <= date < _LAST_DATE_MS:
            raise bad_request(UNDECODABLE)
        if abs(now - date / 1000) > SKEW.total_seconds():
            moment = _EPOCH + timedelta(milliseconds=date)
            check_time(Kind.BAD_REQUEST, moment, datetime.fromtimestamp(now, UTC), SKEW)
        right = self._signature(date, payload)
        if not hmac.compare_digest(right, given):
            raise bad_request(ServiceError(Kind.INVALID_SIGNATURE).message)
        self._prior = right.hex()

    def _signature(self, date: Timestamp, payload: bytes) -> bytes:
        caller, stamp = self._caller, _stamp(date // 1000)
        key = signing_key(caller.secret, stamp[:8], caller.region, caller.service)
        headers = sha256(encode_headers({":date": date})).hexdigest()
        return hmac_sha256(
            key,
            f"{CHUNK_ALGORITHM}\n{stamp}\n{stamp[:8]}/{caller.region}/{caller.service}/aws4_request\n"
            f"{self._prior}\n{headers}\n{sha256(payload).hexdigest()}",
        )


class AudioReader:
    """Takes the audio out of a stream's messages.

    Args:
        caller: who signed the request.
        must_sign: whether unsigned messages are refused (HTTP/2).
        now: seconds since 1970.
    """

    def __init__(self, caller: Caller, *, must_sign: bool, now: Callable[[], float]) -> None:
        self._chain = Chain(caller)
        self._must_sign = must_sign
        self._now = now
        self._known = b""
        """With what the last unsigned message of audio began, up to its payload; most go on with the same."""
        self._known_size = -1
        self._known_crc = 0

    def read(self, message: bytes) -> bytes:
        """The audio of exactly one message; empty at the end of the stream.

        Raises:
            ServiceError: BadRequestException: not to be decoded, a wrong signature, or no AudioEvent.
        """
        if len(message) == self._known_size and message.startswith(self._known):
            payload = message[len(self._known) : -CRC_BYTES]
            if crc32(payload, self._known_crc) == int.from_bytes(message[-CRC_BYTES:], "big"):
                return payload
        try:
            return self._read(message)
        except Malformed as error:
            raise bad_request(UNDECODABLE) from error

    def _read(self, data: bytes) -> bytes:
        block, payload = split(data)
        if block in _AUDIO_BLOCKS and not self._must_sign:
            self._known = data[: PRELUDE_BYTES + len(block)]
            self._known_size, self._known_crc = len(data), crc32(self._known)
            return payload
        message = decode(data)
        if ":chunk-signature" in message.headers:
            self._check(
                message.headers.get(":date"),
                message.headers[":chunk-signature"],
                len(message.headers),
                message.payload,
            )
            if not message.payload:
                return b""
            message = decode(message.payload)
        elif self._must_sign:
            raise bad_request(ServiceError(Kind.INVALID_SIGNATURE).message)
        if message.headers != AUDIO_HEADERS:
            raise bad_request(UNDECODABLE)
        return message.payload

    def _check(self, date: object, signature: object, count: int, payload: bytes) -> None:
        if not isinstance(date, Timestamp) or not isinstance(signature, bytes) or count != 2:
            raise bad_request(UNDECODABLE)
        self._chain.check(date, payload, signature, self._now())
