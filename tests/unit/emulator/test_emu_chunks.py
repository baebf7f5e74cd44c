from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from amazon_transcribe.auth import Credentials
from amazon_transcribe.eventstream import EventSigner, EventStreamMessageSerializer

from loadtest.emulator.chunks import AUDIO_HEADERS, AudioReader
from loadtest.emulator.eventstream import HeaderValue, Timestamp, encode
from loadtest.emulator.problems import Kind, ServiceError
from loadtest.emulator.sigv4 import Caller

NOW = datetime(2026, 1, 2, 23, 59, 59, tzinfo=UTC)
SEED = bytes(range(32))
CALLER = Caller("AKIDEXAMPLE", "SECRETEXAMPLE", "us-west-2", "transcribe", SEED)


class Amazons:
    """Signs as amazon-transcribe does, with its own code."""

    def __init__(self, secret: str = CALLER.secret, at: datetime = NOW) -> None:
        self._credentials = Credentials("AKIDEXAMPLE", secret)
        self._signer = EventSigner("transcribe", "us-west-2", lambda: at)
        self._prior = SEED

    def message(self, payload: bytes) -> bytes:
        headers = self._signer.sign(payload, self._prior, self._credentials)
        signature = headers[":chunk-signature"]
        assert isinstance(signature, bytes)
        self._prior = signature
        whole: bytes = EventStreamMessageSerializer().serialize(headers, payload)
        return whole


def reader(*, must_sign: bool = True, now: datetime = NOW) -> AudioReader:
    return AudioReader(CALLER, must_sign=must_sign, now=now.timestamp)


def audio(pcm: bytes) -> bytes:
    return encode(AUDIO_HEADERS, pcm)


def refusal(of: AudioReader, message: bytes) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        of.read(message)
    assert caught.value.kind is Kind.BAD_REQUEST
    return caught.value


@pytest.mark.parametrize("must_sign", [True, False])
def test_a_chain_by_amazons_own_code_is_accepted(must_sign: bool) -> None:
    amazon, mine = Amazons(), reader(must_sign=must_sign)
    for pcm in (b"ab", b"cd" * 1600, b"ef"):
        assert mine.read(amazon.message(audio(pcm))) == pcm
    assert mine.read(amazon.message(b"")) == b""


def test_a_message_left_out_breaks_the_chain() -> None:
    amazon, mine = Amazons(), reader()
    mine.read(amazon.message(audio(b"ab")))
    amazon.message(audio(b"cd"))
    assert "signature" in refusal(mine, amazon.message(audio(b"ef"))).message


def test_another_secret_is_noticed() -> None:
    assert "signature" in refusal(reader(), Amazons("WRONG").message(audio(b"ab"))).message


@pytest.mark.parametrize(("minutes", "text"), [(-6, "Signature expired"), (6, "not yet current")])
def test_a_message_from_another_time_is_refused(minutes: int, text: str) -> None:
    amazon = Amazons(at=NOW + timedelta(minutes=minutes))
    assert text in refusal(reader(), amazon.message(audio(b"ab"))).message


def test_over_websocket_the_three_headers_alone_do_in_any_order() -> None:
    mine = reader(must_sign=False)
    backwards = dict(reversed([*AUDIO_HEADERS.items()]))
    assert mine.read(audio(b"ab")) == mine.read(encode(backwards, b"ab")) == b"ab"
    assert mine.read(audio(b"")) == b""
    # What is unsigned is no part of the chain.
    assert mine.read(Amazons().message(audio(b"cd"))) == b"cd"


def test_over_http2_unsigned_audio_is_refused() -> None:
    refusal(reader(), audio(b"ab"))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {**AUDIO_HEADERS, "more": "x"},
        {**AUDIO_HEADERS, ":event-type": "ConfigurationEvent"},
        {":chunk-signature": b"x" * 32},
        {":date": Timestamp(0), ":chunk-signature": "text"},
        {":date": Timestamp(2**62), ":chunk-signature": b"x"},
        {":date": Timestamp(-1), ":chunk-signature": b"x"},
        {":date": Timestamp(0), ":chunk-signature": b"x", "more": True},
    ],
)
def test_what_is_no_audio_event_is_refused(headers: dict[str, HeaderValue]) -> None:
    refusal(reader(must_sign=False), encode(headers, b"ab"))


@pytest.mark.parametrize("data", [b"", b"abc", bytes(100), audio(b"ab") + b"x"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    assert "decode" in refusal(reader(must_sign=False), data).message
