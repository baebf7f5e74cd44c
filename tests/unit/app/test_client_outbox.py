from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.client.errors import BadAudio, ProtocolError
from app.client.outbox import KEEP_SAMPLES_MAX, Outbox, chunks

PCM = random.Random(7).randbytes(20_000)  # noqa: S311  # sound, not a secret
SAMPLES = len(PCM) // 2


def outbox(frame_bytes: int = 200, pcm: bytes = PCM, piece: int = 300) -> Outbox:
    return Outbox(chunks(pcm, piece), frame_bytes)


def everything(box: Outbox, until: int | None = None) -> bytes:
    """All frames that can be had now."""
    frames: list[bytes] = []
    while (frame := box.take(until)) is not None:
        frames.append(frame)
    return b"".join(frames)


def test_nothing_is_sent_before_the_server_is_ready() -> None:
    assert outbox().take() is None


def test_frames_carry_the_source_in_order_and_the_last_one_may_be_short() -> None:
    box = outbox(frame_bytes=6_000)
    box.resume(0, 100_000)
    sizes = [len(box.take() or b"") for _ in range(4)]
    assert sizes == [6_000, 6_000, 6_000, 2_000]
    assert box.take() is None
    assert box.finished
    assert box.sha256() == hashlib.sha256(PCM).hexdigest()


def test_the_window_is_never_exceeded() -> None:
    box = outbox()
    box.resume(0, 1_050)
    assert len(everything(box)) == 2 * 1_000
    box.acknowledge(1_000, 0, 550)
    assert len(everything(box)) == 2 * 500
    assert box.position == 1_500


def test_the_limit_never_goes_back() -> None:
    box = outbox()
    box.resume(0, 1_000)
    everything(box)
    box.acknowledge(500, 0, 100)
    assert box.take() is None
    box.acknowledge(600, 0, 500)
    assert box.take() is not None


def test_a_window_smaller_than_a_frame_is_filled_once_all_else_has_arrived() -> None:
    box = outbox(frame_bytes=2_000)
    box.resume(0, 1_300)
    assert len(box.take() or b"") == 2_000
    assert box.take() is None
    box.acknowledge(1_000, 0, 300)
    assert len(box.take() or b"") == 600


def test_a_resume_sends_again_what_was_not_durable_and_nothing_else() -> None:
    box = outbox()
    box.resume(0, 5_000)
    everything(box)
    box.acknowledge(4_000, 3_000, 2_000)
    box.resume(3_500, 100_000)
    assert everything(box) == PCM[7_000:]
    assert box.sha256() == hashlib.sha256(PCM).hexdigest()


def test_audio_that_was_called_durable_cannot_be_asked_for_again() -> None:
    box = outbox()
    box.resume(0, 5_000)
    everything(box)
    box.acknowledge(4_000, 3_000, 2_000)
    with pytest.raises(ProtocolError):
        box.resume(2_999, 100)


@pytest.mark.parametrize(
    ("received", "durable"), [(5_001, 0), (4_000, 4_001), (3_999, 3_000), (4_500, 2_999), (-1, 0)]
)
def test_an_ack_that_cannot_be_true_is_refused(received: int, durable: int) -> None:
    box = outbox()
    box.resume(0, 5_000)
    everything(box)
    box.acknowledge(4_000, 3_000, 1_000)
    with pytest.raises(ProtocolError):
        box.acknowledge(received, durable, 100)


def test_a_client_that_starts_anew_skips_what_the_server_has() -> None:
    box = outbox()
    box.resume(7_000, 100_000)
    assert everything(box) == PCM[14_000:]
    assert box.sha256() == hashlib.sha256(PCM).hexdigest()


def test_skipping_far_keeps_no_more_than_a_server_may_lose() -> None:
    pcm = bytes(4 * KEEP_SAMPLES_MAX * 2)
    box = Outbox(chunks(pcm), 3_200)
    box.resume(3 * KEEP_SAMPLES_MAX, 1_000)
    assert box.samples_kept <= KEEP_SAMPLES_MAX + 40_000
    box.resume(2 * KEEP_SAMPLES_MAX, 1_000)
    assert box.position == 2 * KEEP_SAMPLES_MAX


def test_a_server_that_has_more_than_there_is_cannot_be_resumed() -> None:
    with pytest.raises(ProtocolError):
        outbox().resume(SAMPLES + 1, 100)


def test_the_source_is_pulled_no_further_than_the_window_and_one_piece() -> None:
    pulled: list[int] = []

    def endless() -> Iterator[bytes]:
        while True:
            pulled.append(300)
            yield bytes(300)

    box = Outbox(endless(), 200)
    box.resume(0, 2_000)
    everything(box)
    assert 4_000 <= sum(pulled) <= 4_000 + 2 * 300
    assert box.samples_kept <= 2_000 + 300


def test_audio_that_was_not_spoken_yet_is_not_sent() -> None:
    box = outbox()
    box.resume(0, 100_000)
    assert len(everything(box, until=250)) == 2 * 200
    assert len(everything(box, until=300)) == 2 * 100


def test_cutting_ends_the_audio_with_what_was_sent() -> None:
    box = outbox()
    box.resume(0, 1_000)
    everything(box)
    box.cut()
    finished = [box.finished]
    box.resume(400, 100_000)
    finished.append(box.finished)
    assert everything(box) == PCM[800:2_000]
    assert [*finished, box.finished] == [True, False, True]
    assert box.sha256() == hashlib.sha256(PCM[:2_000]).hexdigest()


def test_no_audio_at_all_is_finished_as_soon_as_one_looks() -> None:
    box = Outbox([], 200)
    box.resume(0, 100)
    assert box.take() is None
    assert box.finished


def test_half_a_sample_is_no_audio() -> None:
    box = Outbox([b"abc"], 200)
    box.resume(0, 100)
    with pytest.raises(BadAudio):
        box.take()


@pytest.mark.parametrize("frame_bytes", [0, 1, 3, 65_537, 65_538])
def test_frames_have_the_sizes_of_the_contract(frame_bytes: int) -> None:
    with pytest.raises(ValueError, match="bytes"):
        Outbox([], frame_bytes)


@given(
    frame=st.integers(1, 700).map(lambda samples: 2 * samples),
    piece=st.integers(1, 5_000),
    steps=st.lists(
        st.tuples(st.integers(0, 1_500), st.floats(0, 1), st.floats(0, 1), st.booleans()), max_size=40
    ),
)
def test_whatever_is_acked_lost_or_resumed_the_server_ends_with_every_sample_once(
    frame: int, piece: int, steps: list[tuple[int, float, float, bool]]
) -> None:
    box = outbox(frame, piece=piece)
    server = bytearray()
    durable = 0
    box.resume(0, 500)
    for window, heard, kept, dropped in [*steps, (SAMPLES, 1.0, 0.0, False), (SAMPLES, 1.0, 0.0, False)]:
        sent = everything(box)
        server += sent[: int(len(sent) * heard) // 2 * 2]
        received = len(server) // 2
        durable += int((received - durable) * kept)
        if dropped or received < box.position:
            del server[2 * (durable + (received - durable) // 2) :]
            box.resume(len(server) // 2, window)
        else:
            box.acknowledge(received, durable, window)
    server += everything(box)
    assert box.finished
    assert bytes(server) == PCM
    assert box.sha256() == hashlib.sha256(PCM).hexdigest()
