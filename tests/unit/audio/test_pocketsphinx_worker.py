from __future__ import annotations

import io

import pytest

from audio.engines.pocketsphinx_decoder import Spoken
from audio.engines.pocketsphinx_wire import (
    AUDIO,
    BEGIN,
    END,
    FLUSH,
    NUMBER,
    Answered,
    Begun,
    Ended,
    Heard,
    PipeOutOfStep,
    Quiet,
    Report,
    ReportReader,
    encode_order,
)
from audio.engines.pocketsphinx_worker import serve


class NoRecogniser:
    """For audio in which nothing is said."""

    def start(self, pcm: bytes) -> None:
        raise AssertionError

    def hear(self, pcm: bytes) -> None:
        raise AssertionError

    def hypothesis(self) -> str:
        raise AssertionError

    def finish(self) -> list[Spoken]:
        raise AssertionError


def served(orders: bytes) -> list[Report]:
    sink = io.BytesIO()
    serve(io.BytesIO(orders), sink, NoRecogniser())
    return list(ReportReader().feed(sink.getvalue()))


def test_orders_are_obeyed_and_each_report_names_its_stream() -> None:
    orders = [
        encode_order(BEGIN, NUMBER.pack(1)),
        encode_order(AUDIO, bytes(2000)),
        encode_order(FLUSH),
        encode_order(END),
        encode_order(BEGIN, NUMBER.pack(2)),
        encode_order(AUDIO, bytes(600)),
    ]
    assert served(b"".join(orders)) == [
        Report(1, Begun()),
        Report(1, Heard(1000)),
        Report(1, Quiet(1000)),
        Report(1, Answered()),
        Report(1, Quiet(1000)),
        Report(1, Ended()),
        Report(2, Begun()),
        Report(2, Heard(300)),
    ]


@pytest.mark.parametrize("cut", [1, 3, 6])
def test_it_ends_when_the_server_is_gone_in_mid_order(cut: int) -> None:
    assert served(encode_order(AUDIO, bytes(100))[:cut]) == []


@pytest.mark.parametrize("orders", [encode_order(b"?"), b"\xff\xff\xff\xff", bytes(4)])
def test_an_order_it_does_not_know_ends_it(orders: bytes) -> None:
    with pytest.raises(PipeOutOfStep):
        served(orders)
