from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loadtest.emulator.h2flow import (
    DATA,
    FULL_BYTES,
    HEADER_BYTES,
    MAX_FRAME,
    Framer,
    Outflow,
    credit,
    unpadded,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def made(kind: int, flags: int, stream_id: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + body


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=50)),
        max_size=6,
    ),
    st.lists(st.integers(1, 40), min_size=1),
)
def test_frames_are_cut_out_of_any_pieces(
    frames: list[tuple[int, int, int, bytes]], sizes: list[int]
) -> None:
    whole = PREFACE + b"".join(made(*parts) for parts in frames)
    framer, at, turn = Framer(), 0, 0
    found: list[tuple[int, int, int, bytes]] = []
    while at < len(whole):
        size = sizes[turn % len(sizes)]
        found += framer.feed(whole[at : at + size])
        at, turn = at + size, turn + 1
    assert found == [(-1, 0, 0, PREFACE), *((k, f, s, made(k, f, s, body)) for k, f, s, body in frames)]


def test_a_frame_that_is_too_long_is_not_waited_for() -> None:
    framer = Framer()
    assert len(list(framer.feed(PREFACE + (MAX_FRAME + 1).to_bytes(3, "big") + bytes(6)))) == 1
    assert framer.broken


def test_padding_is_taken_off() -> None:
    assert unpadded(made(DATA, 8, 1, b"\x03abc\0\0\0"), 8) == b"abc"
    assert unpadded(made(DATA, 0, 1, b"abc"), 0) == b"abc"


class Client:
    def __init__(self) -> None:
        self.out = b""
        self.full: list[bool] = []
        self.ended = False
        self.flow = Outflow(self.write, self.fill)

    def write(self, data: bytes) -> None:
        self.out += data

    def fill(self, *, full: bool) -> None:
        self.full.append(full)

    def end(self) -> None:
        self.ended = True

    @property
    def data(self) -> tuple[bytes, bool]:
        """What has come on stream 1, and whether that was all."""
        found, ended, at = b"", False, 0
        while at < len(self.out):
            size = int.from_bytes(self.out[at : at + 3], "big")
            assert size <= MAX_FRAME
            assert self.out[at + 5 : at + 9] == (1).to_bytes(4, "big")
            ended = ended or bool(self.out[at + 4])
            found += self.out[at + HEADER_BYTES : at + HEADER_BYTES + size]
            at += HEADER_BYTES + size
        return found, ended


def test_a_clients_windows_are_kept_to() -> None:
    client = Client()
    for _ in range(7):
        client.flow.send(1, bytes(10_000))
    client.flow.end(1, client.end)
    assert client.data == (bytes(65_535), False)
    client.flow.credit(0, credit(0, 100_000), 1)
    client.flow.credit(3, credit(3, 100_000), 1)
    assert client.data == (bytes(65_535), False)
    client.flow.credit(1, credit(1, 1_000), 1)
    assert client.data == (bytes(66_535), False)
    client.flow.initial(100_000, 1)
    assert client.data == (bytes(70_000), True)
    assert client.ended


def test_a_client_that_takes_nothing_is_told_of() -> None:
    client = Client()
    client.flow.initial(0, 1)
    for _ in range(FULL_BYTES // 10_000 + 1):
        client.flow.send(1, bytes(10_000))
    assert client.full == [True]
    client.flow.initial(60_000, 1)
    assert client.full == [True, False]
    assert len(client.data[0]) == 60_000
