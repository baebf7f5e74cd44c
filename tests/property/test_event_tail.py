"""A log that grows, is trimmed, emptied, or loses its end in a failover; a channel that drops, doubles and delays what it
carries; observers that come, go and come back with their cursor: each gets each event that it may ask for, once and in order.
"""

from __future__ import annotations

import bisect
import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from app.events.model import FINAL, REWOUND, START, Bounds, Cursor, LogEvent
from app.events.outbox import Ending, Outbox
from app.events.tail import LogExpired, Tail
from app.events.wire import open_event
from tests.support.events import BESIDE, HERE, committed

PAGE = 3
SESSIONS = (HERE, BESIDE)


class World:
    """A clinic's log with its channel, and a feed on it, without any loop."""

    def __init__(self) -> None:
        self.now = 10
        self.log: list[LogEvent] = []
        self.channel: list[LogEvent] = []
        self.seqs = dict.fromkeys(SESSIONS, 0)
        self.owners = dict.fromkeys(SESSIONS, 1)
        self.archived = dict.fromkeys(SESSIONS, 0)
        self.stands: dict[tuple[str, int], int] = {}
        self.tail = Tail()
        self.trimmed: set[tuple[str, int]] = set()
        self.joined = False
        self.observers: list[Observer] = []
        self.expired = self.lossy = False

    def append(self, session: str) -> None:
        self.now += 1
        self.seqs[session] += 1
        self.put(session, self.seqs[session])

    def put(self, session: str, seq: int) -> None:
        epoch = self.stands.setdefault((session, seq), self.owners[session])
        self._add(session, FINAL, seq, epoch, msgspec.json.encode(committed(seq, epoch, f"{seq} by {epoch}")))

    def _add(self, session: str, kind: str, seq: int, epoch: int, body: bytes = b"") -> None:
        prev = self.log[-1].cursor if self.log else START
        event = LogEvent(Cursor(self.now, 0), prev, session, kind, seq, epoch, body)
        self.log.append(event)
        self.channel.append(event)

    def lose_end(self, count: int, *, behind: bool = False, dead: bool = False) -> None:
        """A failover: the newest entries are gone, the owners commit them again; the clock may be behind for a moment.

        ``dead``: the owners of these sessions are gone as well, and others commit finals of their own in their place.
        """
        lost = self.log[len(self.log) - min(count, max(0, len(self.log) - 1)) :]
        if not lost:
            return
        del self.log[len(self.log) - len(lost) :]
        self.joined, self.lossy = False, True
        self.channel.clear()
        if not behind:
            self.now += 1
        if dead:
            for session in dict.fromkeys(event.session_id for event in lost):
                left = [event for event in self.log if event.session_id == session]
                told = max((event.seq for event in left if event.kind == FINAL), default=0)
                self.heir(session, told, told=told if left else None)
            return
        for event in lost:
            self.now += 1
            self._add(event.session_id, event.kind, event.seq, event.epoch, event.body)

    def heir(self, session: str, base: int, *, told: int | None) -> None:
        """A new owner, of whose predecessors the archive has finals up to ``base`` and the log those up to ``told``; None: it knows no owner."""
        self.owners[session] += 1
        self.archived[session] = base = max(base, self.archived[session])
        for seq in range(base + 1, self.seqs[session] + 1):
            del self.stands[session, seq]
        if told is None:
            self.now += 1
            self._add(session, REWOUND, base, self.owners[session])
        for seq in range((told or 0) + 1, self.seqs[session] + 1):
            self.now += 1
            self.put(session, seq)

    def empty(self, kept: int | None = None) -> None:
        """Redis starts again with nothing; owners commit again what the archive has of their sessions.

        ``kept``: new owners, for the old ones died, and so many of each session's finals were in the archive.
        """
        self.log.clear()
        self.channel.clear()
        self.joined, self.lossy = False, True
        for session, last in self.seqs.items():
            if kept is not None:
                self.heir(session, min(kept, last), told=None)
                continue
            for seq in range(1, last + 1):
                self.now += 1
                self.put(session, seq)

    def bounds(self) -> Bounds:
        return Bounds(self.log[0].prev, self.log[0].cursor, self.log[-1].cursor) if self.log else Bounds()

    def after(self, cursor: Cursor) -> tuple[list[LogEvent], bool]:
        place = bisect.bisect_right([event.cursor for event in self.log], cursor)
        page = self.log[place : place + PAGE]
        return page, len(page) == PAGE

    def join(self) -> None:
        self.joined = True
        self.channel.clear()
        self.tail.interrupted()

    def hear(self, event: LogEvent) -> None:
        if self.joined and self.tail.heard(event):
            self.spread(event)

    def catch_up(self, between: int) -> None:
        """Read the log; of what is on the channel, ``between`` messages are heard in the midst of it."""
        if not self.joined or not self.tail.behind:
            return
        if self.tail.begin(self.bounds()):
            for observer in self.observers:
                observer.outbox.set_back(self.tail.last)
        reading = True
        while reading:
            page, full = self.after(self.tail.last)
            while between and self.channel:
                between -= 1
                self.hear(self.channel.pop(0))
            try:
                reading = self.tail.take(page, full=full)
            except LogExpired:
                for observer in self.observers:
                    observer.outbox.end(Ending.EXPIRED)
                self.expired = True
                reading = self.tail.take(page, full=full)
            for event in page:
                self.spread(event)

    def spread(self, event: LogEvent) -> None:
        opened = open_event(event, 0.0)
        for observer in self.observers:
            observer.outbox.offer(opened)


class Observer:
    """Comes back with its cursor, and knows a final by its session and ``seq``.

    When its cursor is expired it comes back to the beginning, and what it is told from there on replaces what it has.
    """

    def __init__(self, world: World, session: str | None) -> None:
        self.world, self.session = world, session
        self.got: list[dict[str, Any]] = []
        self.shows: dict[tuple[str, int], str] = {}
        self.cursor = START
        self.enter(world, START)

    def enter(self, world: World, after: Cursor) -> None:
        self.outbox = Outbox(self.session, after, live=False, wake=lambda: None)
        self.this: list[dict[str, Any]] = []
        self.told: Cursor | None = None
        self.anew = after == START
        if not world.bounds().holds(after):
            self.outbox.end(Ending.EXPIRED)

    def replay(self, between: int) -> None:
        if self.outbox.live or self.outbox.ending is not None:
            return
        self.outbox.arm()
        page, full = self.world.after(self.outbox.last)
        if page and self.outbox.last != START and not START < page[0].prev <= self.outbox.last:
            self.outbox.end(Ending.EXPIRED)
            return
        for _ in range(between):
            if self.world.channel:
                self.world.hear(self.world.channel.pop(0))
        self.note(self.outbox.replay([open_event(event, 0.0) for event in page], full=full))

    def note(self, texts: list[str]) -> None:
        for text in texts:
            message = json.loads(text)
            if "cursor" in message:
                assert self.told is None or Cursor.parse(message["prev"]) <= self.told, "a break in prev"
                self.told = self.cursor = Cursor.parse(message["cursor"])
            if message["type"] == "final":
                if self.anew and all(m["sessionId"] != message["sessionId"] for m in self.this):
                    self.withdraw(message["sessionId"], message["seq"] - 1)
                self.this.append(message)
                self.got.append(message)
                self.shows.setdefault((message["sessionId"], message["seq"]), message["text"])
            else:
                assert message["code"] == "finals_rewound"
                assert self.world.lossy, "nothing is withdrawn that nobody lost"
                self.withdraw(message["sessionId"], message["seq"])

    def withdraw(self, session: str, stands: int) -> None:
        self.shows = {
            (of, seq): text for (of, seq), text in self.shows.items() if of != session or seq <= stands
        }
        self.this = [m for m in self.this if m["sessionId"] != session or m["seq"] <= stands]


def check_order(observer: Observer) -> None:
    seen: dict[str, int] = {}
    for message in observer.this:
        known = seen.get(message["sessionId"])
        assert known is None or message["seq"] == known + 1, "finals of a connection follow on"
        seen[message["sessionId"]] = message["seq"]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from([0, 1])),
        st.tuples(st.just("append"), st.sampled_from([0, 1])),
        st.tuples(
            st.sampled_from(["hear", "drop", "double", "late", "catch", "take", "replay"]), st.integers(0, 3)
        ),
        st.tuples(st.sampled_from(["cut", "join"]), st.just(0)),
        st.tuples(st.sampled_from(["again", "trim"]), st.integers(0, 3)),
    ),
    max_size=80,
)
Steps = list[tuple[str, int]]
Strikes = list[tuple[str, int, int]]


def strikes(*kinds: str, most: int) -> st.SearchStrategy[Strikes]:
    """What strikes, how hard, and after how many steps."""
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(1, 4), st.integers(0, 79)), max_size=most)


def struck(steps: Steps, by: Strikes) -> Steps:
    """The steps, with what strikes among them."""
    steps = [*steps]
    for what, n, at in by:
        steps.insert(min(at, len(steps)), (what, n))
    return steps


def step(world: World, observers: list[Observer], what: str, n: int) -> None:  # noqa: PLR0912
    observer = observers[n % len(observers)]
    match what:
        case "append":
            world.append(SESSIONS[n])
        case "hear" if world.channel:
            world.hear(world.channel.pop(0))
        case "drop" if world.channel:
            world.channel.pop(0)
        case "double" if world.channel:
            world.channel.insert(0, world.channel[0])
        case "late" if world.channel:
            world.channel.append(world.channel.pop(0))
        case "catch":
            world.catch_up(n)
        case "take":
            observer.note(observer.outbox.take())
        case "replay":
            observer.replay(n)
        case "cut":
            world.joined = False
            world.channel.clear()
        case "join":
            world.join()
        case "again":
            observer.enter(world, observer.cursor)
        case "anew" if observer.outbox.ending is Ending.EXPIRED:
            observer.enter(world, START)
        case "trim" if len(world.log) > n + 1:
            world.trimmed |= {(event.session_id, event.seq) for event in world.log[:n]}
            del world.log[:n]
        case "lose":
            world.lose_end(n, behind=False)
        case "lose_behind":
            world.lose_end(n, behind=True)
        case "lose_dead":
            world.lose_end(n, dead=True)
        case "empty":
            world.empty()
        case "empty_dead":
            world.empty(kept=n)


def settle(world: World, observers: list[Observer]) -> None:
    """All is well again, and everybody reads to the end."""
    if not world.joined:
        world.join()
    world.append(HERE)
    while world.channel:
        world.hear(world.channel.pop(0))
    world.catch_up(0)
    for observer in observers:
        while not observer.outbox.live and observer.outbox.ending is None:
            observer.replay(0)
        observer.note(observer.outbox.take())


def play(steps: list[tuple[str, int]]) -> tuple[World, list[Observer]]:
    world = World()
    world.join()
    world.catch_up(0)
    observers = [Observer(world, None), Observer(world, HERE), Observer(world, BESIDE)]
    world.observers = observers
    for what, n in steps:
        step(world, observers, what, n)
    settle(world, observers)
    return world, observers


@settings(max_examples=1500)
@given(STEPS)
def test_whatever_the_channel_does_each_observer_has_every_final_once_and_in_order(
    steps: list[tuple[str, int]],
) -> None:
    world, observers = play(steps)
    for observer in observers:
        check_order(observer)
        got = [(message["sessionId"], message["seq"]) for message in observer.got]
        assert len(got) == len(set(got)), "nothing comes twice, across connections too"
        if observer.outbox.ending is None:
            every = {(s, n) for s in SESSIONS for n in range(1, world.seqs[s] + 1)}
            check_whole(world, observer, every)


def check_whole(world: World, observer: Observer, events: set[tuple[str, int]]) -> None:
    """Whoever asks for all that is retained may get less than all there was, but only at the beginning."""
    got = {(message["sessionId"], message["seq"]) for message in observer.got}
    missing = {key for key in events if observer.session in (None, key[0])} - got
    assert missing <= world.trimmed
    assert all(missed < have for missed in missing for have in got if missed[0] == have[0])


@settings(max_examples=1500)
@given(STEPS, strikes("lose", "lose_behind", "empty", most=3))
def test_finals_that_a_failover_lost_and_owners_commit_again_come_once_to_who_stayed(
    steps: Steps, faults: Strikes
) -> None:
    world, observers = play(struck(steps, faults))
    for observer in observers:
        check_order(observer)
        if observer.outbox.ending is None:
            check_whole(world, observer, {(event.session_id, event.seq) for event in world.log})


@settings(max_examples=500)
@given(STEPS, strikes("lose", "lose_behind", "lose_dead", "empty", "empty_dead", most=4))
def test_whoever_dies_with_what_redis_lost_an_observer_that_comes_back_shows_what_stands(
    steps: Steps, deaths: Strikes
) -> None:
    steps = [("anew" if what == "trim" else what, n) for what, n in steps]
    world, observers = play(struck(steps, deaths))
    for observer in observers:
        if observer.outbox.ending is Ending.EXPIRED:
            observer.enter(world, START)
    settle(world, observers)
    for observer in observers:
        stands = {
            (session, seq): f"{seq} by {epoch}"
            for (session, seq), epoch in world.stands.items()
            if observer.session in (None, session)
        }
        assert observer.shows == stands
