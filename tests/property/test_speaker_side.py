"""A speaker's side under any sequence of frames, ticks, results and connections: what each connection is sent, and what is taken."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.protocol.close import CloseCode
from app.protocol.messages import Completed
from app.sessions.finals import FinalsBook
from app.sessions.link import Closing, Link
from app.sessions.speaker import SpeakerSide
from audio.ring import Ring
from audio.transcript import Partial
from tests.support.archives import a_final, sound

CAPACITY = 4000


class Heard:
    """What one connection was sent, checked as it comes."""

    def __init__(self, link: Link, cursor: int) -> None:
        self.link, self.seq = link, cursor
        self.finals: set[str] = set()
        self.limit = 0
        self.over = False

    def take(self, texts: list[str]) -> None:
        for text in texts:
            message: dict[str, Any] = msgspec.json.decode(text)
            assert not self.over, f"{message['type']} after the last word"
            match message["type"]:
                case "final":
                    assert message["seq"] == self.seq + 1
                    self.seq += 1
                    self.finals.add(message["id"])
                case "partial":
                    assert message["id"] not in self.finals, "a partial after its final"
                case "ack":
                    assert message["durable"] <= message["received"]
                    assert message["received"] + message["window"] >= self.limit
                    self.limit = message["received"] + message["window"]
                case "error" | "completed":
                    self.over = True
                    assert self.link.closing


class Speaking(RuleBasedStateMachine):
    durable = 0

    @initialize()
    def begin(self) -> None:
        self.ring = Ring(0, CAPACITY)
        self.reader = self.ring.add_reader("recorder", 0)
        self.book = FinalsBook(epoch=1, seq=0)
        self.side = SpeakerSide(self.ring, self.book, self)
        self.now = 0.0
        self.arrived = self.stops = 0
        self.heard: list[Heard] = []
        self.connect(0)

    # The session behind it

    def audio_arrived(self) -> None:
        self.arrived += 1

    def flush_requested(self) -> None:
        pass

    def pause_requested(self) -> None:
        pass

    def stop_requested(self) -> None:
        self.stops += 1
        assert self.side.stop_at == self.ring.head

    # What may happen

    @rule(back=st.integers(0, 5))
    def connect(self, back: int) -> None:
        cursor = max(0, self.book.committed - back)
        missed = self.book.since(cursor) or []
        link = Link(
            serial=1,
            missed=missed,
            cursor=missed[-1].seq if missed else cursor,
            now=self.now,
            wake=lambda: None,
        )
        self.side.attach(link)
        self.heard.append(Heard(link, cursor))

    @rule(which=st.integers(0, 3))
    def disconnect(self, which: int) -> None:
        heard = self.heard[-1 - which % len(self.heard)]
        was = self.side.link is heard.link
        assert self.side.detach(heard.link) is was

    @rule(which=st.integers(0, 3), samples=st.integers(0, 1500), odd=st.booleans())
    def audio(self, which: int, samples: int, odd: bool) -> None:
        heard = self.heard[-1 - which % len(self.heard)]
        if heard.link.closing:
            return  # The endpoint reads no further.
        head, limit, stop = self.ring.head, self.ring.limit, self.side.stop_at
        frame = sound(head, head + samples) + b"x" * odd
        wrong = None
        if odd or not samples:
            wrong = CloseCode.MALFORMED
        elif heard.link is not self.side.link:
            wrong = CloseCode.SUPERSEDED
        elif stop is not None and head + samples > stop:
            wrong = CloseCode.MALFORMED
        elif head + samples > limit:
            wrong = CloseCode.WINDOW
        try:
            self.side.audio(heard.link, frame, self.now)
        except Closing as closing:
            heard.link.close(closing)
            assert self.ring.head == head
        else:
            assert self.ring.head == head + samples
        assert heard.link.close_code is wrong

    @rule(ahead=st.integers(-300, 1500) | st.none())
    def stop(self, ahead: int | None) -> None:
        link = self.side.link
        if link is None or link.closing:
            return
        head = self.ring.head
        position = None if ahead is None else max(0, head + ahead)
        before = self.stops
        message = {"type": "stop"} | ({} if position is None else {"position": position})
        try:
            self.side.text(link, msgspec.json.encode(message).decode(), self.now)
        except Closing as closing:
            assert position is not None
            assert position < head
            link.close(closing)
        else:
            assert self.stops == before + (position is None or position == head)

    @rule(text=st.text(max_size=20))
    def nonsense(self, text: str) -> None:
        link = self.side.link
        if link is None or link.closing:
            return
        with pytest.raises(Closing) as caught:
            self.side.text(link, text, self.now)
        assert caught.value.code is CloseCode.MALFORMED
        link.close(caught.value)

    @rule(share=st.floats(0, 1))
    def archive(self, share: float) -> None:
        position = self.durable + round(share * (self.ring.head - self.durable))
        self.reader.advance(position)
        self.durable = position
        if self.side.link is not None:
            self.side.link.ack()

    @rule(seconds=st.sampled_from([0.1, 0.25, 1.0, 30.0]))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.side.tick(self.now)

    @rule()
    def guess(self) -> None:
        number = self.book.numbered + 1
        if self.side.link is not None:
            self.side.link.partial(Partial(f"u{number}", 0, 1, "so far"))

    @rule(count=st.integers(1, 3))
    def commit(self, count: int) -> None:
        batch = self.book.number([a_final(self.book.numbered + n, 0, 1) for n in range(1, count + 1)])
        for final in batch:
            if self.side.link is not None:
                self.side.link.partial(Partial(final.final.id, 0, 1, final.final.text))
        self.book.keep(batch)
        self.book.mark_committed(batch[-1].seq)
        if self.side.link is not None:
            self.side.link.finals_committed([f.final.id for f in batch])

    @rule(which=st.integers(0, 3))
    def write(self, which: int) -> None:
        heard = self.heard[-1 - which % len(self.heard)]
        if heard.over:
            return  # The endpoint has closed the socket.
        heard.take(self.side.take(heard.link, self.now))
        if heard.link is self.side.link and not heard.over:
            assert heard.seq == self.book.committed

    @precondition(lambda self: self.side.link is not None and not self.side.link.closing)
    @rule()
    def complete(self) -> None:
        link = self.side.link
        assert link is not None
        link.complete(Completed("s", self.ring.head, self.book.committed, {}, None))
        heard = next(h for h in self.heard if h.link is link)
        heard.take(self.side.take(link, self.now))
        assert heard.over
        assert heard.seq == self.book.committed

    @invariant()
    def what_was_taken_is_what_was_sent(self) -> None:
        if hasattr(self, "ring"):
            oldest, head = self.ring.oldest, self.ring.head
            assert b"".join(self.ring.view(oldest, head)) == sound(oldest, head)
            assert self.durable <= head <= self.ring.limit


TestSpeaking = Speaking.TestCase
TestSpeaking.settings = settings(max_examples=60, stateful_step_count=40)
