from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from app.archive.reader import read_header, read_notes
from app.archive.recorder import Recorder
from app.archive.records import decode_segment, segment_key
from app.archive.store import StoreUnavailable
from app.sessions.courier import SessionNotes
from app.sessions.errors import Superseded
from app.sessions.finals import FinalsBook
from app.sessions.ownership import confirm
from audio.coverage import Ranges
from audio.pcm import SAMPLE_RATE
from audio.ring import Ring
from tests.support.archives import REF, Scribe, WatchedStore, a_final, disk, names, sound
from tests.support.inline_loop import in_virtual_time

SECOND = SAMPLE_RATE
FRAME = SECOND // 10


@dataclass
class Events:
    told: list[tuple[str, object]] = field(default_factory=list)

    def on_durable(self, position: int, seconds: float) -> None:
        assert seconds >= 0
        self.told.append(("durable", position))

    def on_archive_degraded(self, reason: str) -> None:
        self.told.append(("degraded", reason))

    def on_archive_recovered(self) -> None:
        self.told.append(("recovered", None))

    def codes(self) -> list[str]:
        return [code for code, _ in self.told if code != "durable"]


class Rig:
    """A recorder with a writer before it and the real store behind it."""

    def __init__(self, store: WatchedStore, *, keep_audio: bool = True, origin: int = 0) -> None:
        self.store = store
        self.ring = Ring(origin)
        self.book = FinalsBook(epoch=1, seq=0)
        self.notes = SessionNotes(self.book, Ranges([(0, 7)]), None)
        self.events = Events()
        self.reader = self.ring.add_reader("recorder", origin)
        self.recorder = Recorder(
            store=store,
            ref=REF,
            epoch=1,
            ring=self.ring,
            reader=self.reader,
            notes=self.notes,
            events=self.events,
            segment_seconds=5.0,
            keep_audio=keep_audio,
            confirm=self.confirm,
            clock=asyncio.get_running_loop().time,
            rng=Random(1),  # noqa: S311 - jitter
        )

    async def confirm(self) -> None:
        await confirm(self.store, REF, 1)

    def write(self, samples: int) -> None:
        head = self.ring.head
        self.ring.write(sound(head, head + samples))
        self.recorder.audio_arrived()

    async def speak(self, seconds: float) -> None:
        """In real time, a frame every tenth of a second."""
        for _ in range(round(seconds * 10)):
            self.write(FRAME)
            await asyncio.sleep(0.1)

    def final(self, start: int, end: int) -> None:
        """Committed as the committer does it."""
        numbered = self.book.number([a_final(self.book.numbered + 1, start, end)])
        self.book.keep(numbered)
        self.book.mark_committed(numbered[-1].seq)
        self.recorder.finals_arrived()

    async def segments(self) -> list[str]:
        return [name for name in await names(self.store) if name.startswith("segments/")]

    async def sizes(self) -> list[int]:
        headers = [await read_header(self.store, REF, *self.parse(name)) for name in await self.segments()]
        return [header.samples for header in headers]

    @staticmethod
    def parse(name: str) -> tuple[int, int]:
        first, _, epoch = name.removeprefix("segments/").partition("-")
        return int(first), int(epoch)


@asynccontextmanager
async def recording(root: Path, *, keep_audio: bool = True, origin: int = 0) -> AsyncIterator[Rig]:
    async with disk(root) as inner:
        rig = Rig(WatchedStore(inner), keep_audio=keep_audio, origin=origin)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(rig.recorder.run())
            await asyncio.sleep(0)
            yield rig
            running.cancel()


def refusing(seconds: float, reason: str = "no_space") -> Callable[[str, str], Awaitable[None]]:
    until = asyncio.get_running_loop().time() + seconds

    async def refuse(verb: str, key: str) -> None:
        if verb == "create" and asyncio.get_running_loop().time() < until:
            raise StoreUnavailable(key, "the disk is full", reason)

    return refuse


# When a segment is written --------------------------------------------------------------------------------------------


@in_virtual_time
async def test_five_seconds_of_audio_are_a_segment(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        await rig.speak(12)
        assert await rig.sizes() == [5 * SECOND, 5 * SECOND]
        assert rig.recorder.durable == 10 * SECOND


@in_virtual_time
async def test_audio_faster_than_real_time_is_cut_into_segments_too(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        rig.write(12 * SECOND)
        await asyncio.sleep(1)
        assert await rig.sizes() == [5 * SECOND, 5 * SECOND]
        await asyncio.sleep(5)
        assert await rig.sizes() == [5 * SECOND, 5 * SECOND, 2 * SECOND]


@in_virtual_time
async def test_what_there_is_after_five_seconds_is_a_segment(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        rig.write(FRAME)
        await asyncio.sleep(4.9)
        assert await rig.segments() == []
        await asyncio.sleep(0.2)
        assert await rig.sizes() == [FRAME]
        await asyncio.sleep(60)
        assert await rig.sizes() == [FRAME]


@in_virtual_time
async def test_a_cut_writes_what_there_is_and_nothing_of_what_follows(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        rig.write(3 * FRAME)
        rig.recorder.cut()
        await asyncio.sleep(0.01)
        assert await rig.sizes() == [3 * FRAME]
        await rig.speak(3)
        assert await rig.sizes() == [3 * FRAME]


@in_virtual_time
async def test_a_cut_with_nothing_to_write_leaves_no_hurry_behind(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        rig.recorder.cut()
        await rig.speak(3)
        assert await rig.segments() == []


@in_virtual_time
async def test_a_cut_on_a_slow_store_does_not_chop_what_is_said_meanwhile(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        rig.store.before = lambda verb, key: asyncio.sleep(0.5 if verb == "create" else 0)
        rig.write(FRAME)
        rig.recorder.cut()
        await asyncio.sleep(0.1)
        await rig.speak(4)
        assert await rig.sizes() == [FRAME]


@in_virtual_time
async def test_segments_hold_exactly_what_was_said(tmp_path: Path) -> None:
    async with recording(tmp_path, origin=1234) as rig:
        await rig.speak(7)
        await rig.recorder.drain()
        pcm = b"".join(
            [
                bytes(decode_segment(n, (await rig.store.read(f"north/{REF.session_id}/{n}")).data)[1])
                for n in await rig.segments()
            ]
        )
        assert pcm == sound(1234, 1234 + 7 * SECOND)
        assert rig.recorder.durable == 1234 + 7 * SECOND


@in_virtual_time
async def test_nothing_is_durable_before_the_store_said_so(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        gate = asyncio.Event()

        async def wait(verb: str, key: str) -> None:
            del verb, key
            await gate.wait()

        rig.store.after = wait
        rig.write(FRAME)
        rig.recorder.cut()
        await asyncio.sleep(30)
        assert await names(rig.store.inner) == ["segments/000000000000-1"]
        assert (rig.recorder.durable, rig.events.told) == (0, [])
        gate.set()
        await asyncio.sleep(0.1)
        assert (rig.recorder.durable, rig.events.told) == (FRAME, [("durable", FRAME)])


# Finals ---------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_finals_travel_with_the_next_segment(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        await rig.speak(1)
        rig.final(0, 100)
        rig.final(100, 300)
        await rig.speak(4.5)
        header = await read_header(rig.store, REF, 0, 1)
        assert ([f.seq for f in header.finals], header.seq, header.live) == ([1, 2], 2, [(0, 7)])
        assert rig.book.archived == 2
        rig.recorder.cut()
        await asyncio.sleep(0.1)
        later = await read_header(rig.store, REF, 5 * SECOND, 1)
        assert (later.finals, later.seq) == ([], 2)


@in_virtual_time
async def test_finals_without_audio_travel_alone_within_five_seconds(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        await rig.speak(1)
        await rig.recorder.drain()
        rig.final(0, 100)
        await asyncio.sleep(4.9)
        assert rig.book.archived == 0
        await asyncio.sleep(0.2)
        assert rig.book.archived == 1
        assert await names(rig.store) == ["finals/000000000001-1.json", "segments/000000000000-1"]


@in_virtual_time
async def test_finals_that_come_while_a_segment_is_written_need_no_more_audio(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        rig.store.before = lambda verb, key: asyncio.sleep(1 if verb == "create" else 0)
        await rig.speak(1)
        rig.recorder.cut()
        await asyncio.sleep(0.5)
        rig.final(0, 100)
        await asyncio.sleep(8)
        assert rig.book.archived == 1


@in_virtual_time
async def test_a_session_that_keeps_no_audio_stores_finals_and_is_durable_to_their_end(
    tmp_path: Path,
) -> None:
    async with recording(tmp_path, keep_audio=False) as rig:
        await rig.speak(30)
        assert await names(rig.store) == []
        assert rig.recorder.durable == 0
        rig.final(0, 5 * SECOND)
        await asyncio.sleep(6)
        assert await names(rig.store) == ["finals/000000000001-1.json"]
        assert rig.recorder.durable == 5 * SECOND
        assert rig.events.told == [("durable", 5 * SECOND)]
        assert not rig.reader.holds


@in_virtual_time
async def test_without_audio_too_finals_that_come_during_a_put_are_stored(tmp_path: Path) -> None:
    async with recording(tmp_path, keep_audio=False) as rig:
        rig.store.before = lambda verb, key: asyncio.sleep(1 if verb == "create" else 0)
        rig.final(0, 100)
        await asyncio.sleep(5.5)
        rig.final(100, 200)
        await asyncio.sleep(8)
        assert rig.book.archived == 2
        assert [n.seq for n in await read_notes(rig.store, REF, [(1, 1), (2, 1)])] == [1, 2]


# Draining -------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_draining_what_is_durable_returns_at_once(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        await rig.recorder.drain()
        rig.write(FRAME)
        await rig.recorder.drain()
        await rig.recorder.drain()
        assert rig.recorder.durable == FRAME
        assert asyncio.get_running_loop().time() < 1


@in_virtual_time
async def test_draining_takes_finals_along(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        rig.final(0, 100)
        rig.write(FRAME)
        await rig.recorder.drain()
        assert (rig.book.archived, rig.recorder.durable) == (1, FRAME)


@in_virtual_time
async def test_draining_ends_although_the_speaker_goes_on_and_the_store_is_slow(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        rig.store.before = lambda verb, key: asyncio.sleep(0.4 if verb == "create" else 0)
        async with asyncio.TaskGroup() as group:
            speaking = group.create_task(rig.speak(20))
            await asyncio.sleep(0.95)
            head = rig.ring.head
            async with asyncio.timeout(2):
                await rig.recorder.drain()
            assert rig.recorder.durable >= head
            await speaking


@in_virtual_time
async def test_several_may_drain_and_one_may_give_up(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        rig.store.before = lambda verb, key: asyncio.sleep(1 if verb == "create" else 0)
        rig.write(FRAME)
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(rig.recorder.drain()) for _ in range(3)]
            await asyncio.sleep(0.5)
            waiting[1].cancel()
        assert [w.cancelled() for w in waiting] == [False, True, False]
        assert rig.recorder.durable == FRAME


# A store that refuses -------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_refusing_store_is_told_of_once_and_asked_again(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        rig.store.before = refusing(20)
        rig.write(FRAME)
        rig.recorder.cut()
        await asyncio.sleep(19)
        assert rig.events.told == [("degraded", "no_space")]
        assert rig.recorder.durable == 0
        tries = len(rig.store.calls)
        assert 5 < tries < 40
        await asyncio.sleep(10)
        assert rig.events.told == [("degraded", "no_space"), ("recovered", None), ("durable", FRAME)]


@in_virtual_time
async def test_what_waits_is_written_again_as_it_was(tmp_path: Path) -> None:
    bodies: list[bytes] = []
    async with recording(tmp_path) as rig:
        create = rig.store.create

        async def noted(key: str, body: bytes) -> object:
            bodies.append(body)
            return await create(key, body)

        rig.store.create = noted  # type: ignore[assignment,method-assign]
        rig.store.before = refusing(3)
        rig.write(FRAME)
        rig.recorder.cut()
        await asyncio.sleep(1)
        rig.write(FRAME)
        rig.final(0, 100)
        await asyncio.sleep(5)
        assert len(bodies) > 3
        first = [b for b in bodies if b == bodies[0]]
        assert len(first) >= len(bodies) - 1
        assert (await read_header(rig.store, REF, 0, 1)).samples == FRAME


@in_virtual_time
async def test_a_lost_answer_is_no_second_segment(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        lost = 2

        async def lose(verb: str, key: str) -> None:
            nonlocal lost
            if verb == "create" and lost:
                lost -= 1
                raise StoreUnavailable(key, "no answer")

        rig.store.after = lose
        rig.write(FRAME)
        await rig.recorder.drain()
        assert await rig.sizes() == [FRAME]
        assert rig.events.codes() == ["degraded", "recovered"]


@in_virtual_time
async def test_the_window_closes_while_the_store_refuses_and_opens_again(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        rig.store.before = refusing(60)
        while rig.ring.window >= FRAME:
            rig.write(FRAME)
            await asyncio.sleep(0.1)
        head = rig.ring.head
        await asyncio.sleep(100)
        assert rig.ring.window == rig.ring.limit - head > 15 * SECOND
        await rig.recorder.drain()
        assert rig.recorder.durable == head


@in_virtual_time
async def test_each_trouble_is_told_anew(tmp_path: Path) -> None:
    async with recording(tmp_path) as rig:
        for _ in range(2):
            rig.store.before = refusing(2, "io_error")
            rig.write(FRAME)
            await rig.recorder.drain()
        assert rig.events.codes() == ["degraded", "recovered"] * 2


@pytest.mark.parametrize("wait", [0.0, 0.4, 0.6, 1.1])
def test_a_cancelled_put_is_whole_or_not_there(tmp_path: Path, wait: float) -> None:
    @in_virtual_time
    async def scenario() -> None:
        async with disk(tmp_path) as inner:
            rig = Rig(WatchedStore(inner))
            rig.store.before = rig.store.after = lambda verb, key: asyncio.sleep(
                0.5 if verb == "create" else 0
            )
            async with asyncio.TaskGroup() as group:
                running = group.create_task(rig.recorder.run())
                rig.write(FRAME)
                rig.recorder.cut()
                await asyncio.sleep(wait)
                running.cancel()
            found = await names(inner)
            assert found == (["segments/000000000000-1"] if wait > 0.5 else [])
            for _ in found:
                key = segment_key(REF, 0, 1)
                assert bytes(decode_segment(key, (await inner.read(key)).data)[1]) == sound(0, FRAME)
            assert rig.recorder.durable == (FRAME if wait > 1 else 0)

    scenario()


@in_virtual_time
async def test_what_a_newer_owner_has_cut_is_never_called_durable(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        rig = Rig(WatchedStore(inner))
        await Scribe(inner).session()

        async def taken(verb: str, key: str) -> None:
            # The claim comes while the segment is on its way: it may have read the folder without it.
            if verb == "create" and "segments/" in key:
                await Scribe(inner).epoch(2, (0, 0))

        rig.store.before = taken
        rig.write(6 * SECOND)
        with pytest.raises(Superseded):
            await rig.recorder.run()
        assert len(await rig.segments()) == 1
        assert (rig.recorder.durable, rig.events.told) == (0, [])
