from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.emulator.eventstream import (
    MAX_MESSAGE_BYTES,
    HeaderValue,
    Malformed,
    Splitter,
    Timestamp,
    decode,
    encode,
    encode_headers,
    frame,
)
from loadtest.emulator.problems import UNEXPECTED_FRAME, bad_request
from loadtest.emulator.render import exception_frame

EMPTY = bytes.fromhex("00000010000000 0005c248eb7d98c8ff".replace(" ", ""))
NO_HEADERS = bytes.fromhex("0000001d00000000fd528c5a7b27666f6f273a27626172277dc3653936")
# As a client of the service has reported it.
FROM_THE_SERVICE = (
    b"\x00\x00\x00\xa3\x00\x00\x00ah\x10k\xe1\x0f:exception-type\x07\x00\x13BadRequestException"
    b"\r:content-type\x07\x00\x10application/json\r:message-type\x07\x00\texception"
    b'{"Message":"Unexpected WebSocket frame received."}\xbd\xceK\x8a'
)

VALUES: st.SearchStrategy[HeaderValue] = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1).map(Timestamp),
    st.binary(max_size=50),
    st.text(max_size=20),
    st.uuids(),
)
HEADERS = st.dictionaries(st.text(min_size=1, max_size=20), VALUES, max_size=6)


def test_the_specifications_vectors() -> None:
    assert encode({}, b"") == EMPTY
    assert encode({}, b"{'foo':'bar'}") == NO_HEADERS
    assert decode(EMPTY) == ({}, b"")
    assert decode(NO_HEADERS) == ({}, b"{'foo':'bar'}")


def test_an_exception_is_byte_for_byte_the_services() -> None:
    assert exception_frame(bad_request(UNEXPECTED_FRAME)) == FROM_THE_SERVICE
    assert decode(FROM_THE_SERVICE).headers == {
        ":exception-type": "BadRequestException",
        ":content-type": "application/json",
        ":message-type": "exception",
    }


@given(HEADERS, st.binary(max_size=200))
def test_what_is_encoded_is_decoded(headers: dict[str, HeaderValue], payload: bytes) -> None:
    message = decode(encode(headers, payload))
    decoded, body = message
    assert (decoded, body) == (headers, payload)
    assert [type(value) for value in decoded.values()] == [type(value) for value in headers.values()]


@given(HEADERS, st.binary(max_size=50), st.data())
def test_a_changed_byte_is_noticed(
    headers: dict[str, HeaderValue], payload: bytes, data: st.DataObject
) -> None:
    whole = bytearray(encode(headers, payload))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Malformed):
        decode(bytes(whole))


@pytest.mark.parametrize(
    "block",
    [
        encode_headers({"a": 1}) * 2,
        b"\x01a\x0a",
        b"\x01a",
        b"\x05ab",
        b"\x01a\x07\x00\x05abc",
        b"\x01a\x09\x00",
        b"\x01a\x05\x00",
        b"\x01\xff\x00",
    ],
)
def test_headers_that_are_none(block: bytes) -> None:
    with pytest.raises(Malformed):
        decode(frame(block, b""))


@given(
    st.lists(st.tuples(HEADERS, st.binary(max_size=60)), max_size=5), st.lists(st.integers(1, 40), min_size=1)
)
def test_messages_are_cut_out_of_any_pieces(
    messages: list[tuple[dict[str, HeaderValue], bytes]], sizes: list[int]
) -> None:
    whole = b"".join(encode(headers, payload) for headers, payload in messages)
    splitter, at, turn = Splitter(), 0, 0
    found: list[bytes] = []
    while at < len(whole):
        size = sizes[turn % len(sizes)]
        found += splitter.feed(whole[at : at + size])
        at, turn = at + size, turn + 1
    assert [decode(message) for message in found] == messages


@pytest.mark.parametrize("prelude", [b"\xff" * 12, frame(b"", bytes(MAX_MESSAGE_BYTES))[:12]])
def test_a_message_that_cannot_be_is_not_waited_for(prelude: bytes) -> None:
    with pytest.raises(Malformed):
        list(Splitter().feed(prelude))


def test_a_uuid_header_is_16_bytes() -> None:
    name = uuid.UUID(int=7)
    assert encode_headers({"u": name}) == b"\x01u\x09" + name.bytes
