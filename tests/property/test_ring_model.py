"""The ring against the plainest model: a list of every sample ever written."""

from __future__ import annotations

import struct

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from audio.ring import Overwritten, Reader, Ring, WindowExceeded


def packed(values: list[int]) -> bytes:
    return struct.pack(f"<{len(values)}h", *values)


class RingAgainstList(RuleBasedStateMachine):
    ring: Ring
    origin: int
    capacity: int

    @initialize(origin=st.integers(0, 50), capacity=st.integers(1, 24))
    def make(self, origin: int, capacity: int) -> None:
        self.ring = Ring(origin, capacity)
        self.origin, self.capacity = origin, capacity
        self.written: list[int] = []
        self.readers: list[Reader] = []
        self.positions: list[int] = []
        self.holding: list[bool] = []
        self.limit = origin + capacity

    @property
    def head(self) -> int:
        return self.origin + len(self.written)

    @property
    def oldest(self) -> int:
        return max(self.origin, self.head - self.capacity)

    def promise(self) -> None:
        held = [position for position, holds in zip(self.positions, self.holding, strict=True) if holds]
        self.limit = max(self.limit, min(held, default=self.head) + self.capacity)

    def somewhere(self, data: st.DataObject) -> int:
        return data.draw(st.integers(max(0, self.origin - 3), self.head + 3))

    def chosen(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(self.readers) - 1))

    @rule(data=st.data(), kind=st.sampled_from([bytes, bytearray, memoryview]))
    def write(self, data: st.DataObject, kind: type[bytes] | type[bytearray] | type[memoryview]) -> None:
        count = data.draw(st.integers(0, self.capacity + 2))
        values = [(self.head + offset) % 30_000 for offset in range(count)]
        if self.head + count > self.limit:
            with pytest.raises(WindowExceeded):
                self.ring.write(kind(packed(values)))
            return
        assert self.ring.write(kind(packed(values))) == self.head + count
        self.written += values
        self.promise()

    @rule(data=st.data())
    def view(self, data: st.DataObject) -> None:
        start, end = self.somewhere(data), self.somewhere(data)
        if start < self.oldest:
            with pytest.raises(Overwritten):
                self.ring.view(start, end)
        elif not start <= end <= self.head:
            with pytest.raises(ValueError, match="not within"):
                self.ring.view(start, end)
        else:
            slices = self.ring.view(start, end)
            assert len(slices) <= 2
            assert all(piece.readonly and len(piece) for piece in slices)
            assert b"".join(slices) == packed(self.written[start - self.origin : end - self.origin])

    @rule(data=st.data())
    @precondition(lambda self: len(self.readers) < 4)
    def add_reader(self, data: st.DataObject) -> None:
        position = self.somewhere(data)
        if not self.oldest <= position <= self.head:
            with pytest.raises((Overwritten, ValueError)):
                self.ring.add_reader(f"r{len(self.readers)}", position)
            return
        self.readers.append(self.ring.add_reader(f"r{len(self.readers)}", position))
        self.positions.append(position)
        self.holding.append(True)
        self.promise()

    @rule(data=st.data())
    @precondition(lambda self: self.readers)
    def advance(self, data: st.DataObject) -> None:
        at, position = self.chosen(data), self.somewhere(data)
        if not self.positions[at] <= position <= self.head:
            with pytest.raises(ValueError, match="advance"):
                self.readers[at].advance(position)
            return
        self.readers[at].advance(position)
        self.positions[at] = position
        self.promise()

    @rule(data=st.data())
    @precondition(lambda self: self.readers)
    def rewind(self, data: st.DataObject) -> None:
        at, position = self.chosen(data), self.somewhere(data)
        if not self.oldest <= position <= self.positions[at]:
            with pytest.raises((Overwritten, ValueError)):
                self.readers[at].rewind(position)
            return
        self.readers[at].rewind(position)
        self.positions[at] = position

    @rule(data=st.data())
    @precondition(lambda self: self.readers)
    def let_go(self, data: st.DataObject) -> None:
        at = self.chosen(data)
        self.readers[at].let_go()
        self.holding[at] = False
        self.promise()

    @rule(data=st.data())
    @precondition(lambda self: self.readers)
    def hold(self, data: st.DataObject) -> None:
        at, position = self.chosen(data), self.somewhere(data)
        if not self.oldest <= position <= self.head:
            with pytest.raises((Overwritten, ValueError)):
                self.readers[at].hold(position)
            return
        self.readers[at].hold(position)
        self.positions[at], self.holding[at] = position, True
        self.promise()

    @invariant()
    def tells_the_same(self) -> None:
        assert (self.ring.head, self.ring.oldest, self.ring.limit) == (self.head, self.oldest, self.limit)
        assert 0 <= self.ring.window <= self.capacity
        assert self.ring.allocated == bool(self.written)
        kept = self.written[self.oldest - self.origin :]
        assert b"".join(self.ring.view(self.oldest, self.head)) == packed(kept)
        for at, reader in enumerate(self.readers):
            assert (reader.position, reader.holds) == (self.positions[at], self.holding[at])
            assert reader.lag == self.head - self.positions[at]


TestRingAgainstList = RingAgainstList.TestCase
TestRingAgainstList.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
