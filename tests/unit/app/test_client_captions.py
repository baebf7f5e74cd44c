from __future__ import annotations

import pytest

from app.client.captions import Captions
from app.client.errors import ProtocolError
from app.protocol.messages import FinalMessage, PartialMessage


def partial(name: str, start: int, end: int, text: str = "") -> PartialMessage:
    return PartialMessage(name, start, end, text)


def final(seq: int, name: str, start: int, end: int) -> FinalMessage:
    return FinalMessage(seq, name, start, end, "", (), "en-US")


def test_a_partial_replaces_the_earlier_one_of_its_id() -> None:
    captions = Captions()
    captions.partial(partial("b", 50, 60))
    captions.partial(partial("a", 0, 10, "he"))
    captions.partial(partial("a", 0, 20, "hello"))
    assert captions.partials == [partial("a", 0, 20, "hello"), partial("b", 50, 60)]


def test_a_final_settles_its_partial_and_those_it_covers() -> None:
    captions = Captions()
    for message in (partial("a", 0, 20), partial("lost", 5, 10), partial("next", 20, 30)):
        captions.partial(message)
    assert captions.final(final(1, "a", 0, 22))
    assert captions.partials == [partial("next", 20, 30)]
    assert not captions.partial(partial("a", 0, 25))
    assert captions.partials == [partial("next", 20, 30)]


def test_finals_are_taken_once_and_in_order() -> None:
    captions = Captions()
    assert [captions.final(final(seq, f"r{seq}", 0, 0)) for seq in (1, 2, 1, 2, 3)] == [
        True,
        True,
        False,
        False,
        True,
    ]
    assert captions.last_seq == 3


def test_a_missing_final_is_noticed() -> None:
    captions = Captions()
    captions.final(final(1, "a", 0, 1))
    with pytest.raises(ProtocolError):
        captions.final(final(3, "c", 2, 3))


def test_finals_that_were_withdrawn_are_taken_anew() -> None:
    captions = Captions()
    for seq in (1, 2, 3):
        captions.final(final(seq, f"r{seq}", seq, seq + 1))
    captions.rewind(1)
    assert captions.partial(partial("r2", 2, 3))
    assert captions.final(final(2, "r2", 2, 3))
    captions.rewind(7)
    assert captions.last_seq == 2
