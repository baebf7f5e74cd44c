"""What speakers, observers and callers must see of an outage of Redis, and after it."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.raw_socket import eventually, problem_of
from tests.support.speaking import Person, Speaking, assert_complete
from tests.support.watching import BEGINNING, Watching, as_told, watching

NEW = {"language": "en-US"}
SETTLE_SECONDS = 30.0
LIFE = ["session.created", "session.live", "session.completed"]


async def finals(speaking: Speaking, more: int) -> None:
    """Wait for so many more finals."""
    wanted = len(speaking.finals) + more
    await speaking.until(lambda one: len(one.finals) >= wanted)


async def safe(speaking: Speaking, seconds: float) -> None:
    """Wait until so much more audio is."""
    wanted = speaking.acked.durable + seconds * 16_000
    await speaking.until(lambda one: one.acked.durable >= wanted)


async def assert_refused(person: Person) -> None:
    """No new session, and the answer says when to ask again."""
    problem_of(await person.http.post("/v1/sessions", json=NEW), 503, "index_unavailable")


async def assert_no_new_sessions(person: Person) -> None:
    """It lives, is not ready, and says so to whoever wants a new session."""
    await assert_refused(person)
    answer = await eventually(lambda: person.http.get("/readyz"), lambda a: a.status_code == 503)
    assert answer.json()["checks"]["redis"] == "unavailable"
    assert int(answer.headers["retry-after"]) > 0
    assert (await person.http.get("/healthz")).status_code == 200


async def assert_ready(person: Person, watcher: Watching) -> None:
    """It takes new sessions again, lists them, and tells observers of them."""
    answer = await eventually(
        lambda: person.http.get("/readyz"), lambda a: a.status_code == 200, SETTLE_SECONDS
    )
    assert answer.json()["checks"]["redis"] == "ok"
    created = await person.create()
    await watcher.until(lambda one: "session.created" in one.lives[created.session_id])
    assert (await person.listed())[created.session_id] == "created"


async def assert_seen(watcher: Watching, speaking: Speaking) -> None:
    """An observer gets the session to its end, and exactly what its speaker got."""
    await watcher.until(lambda one: "session.completed" in one.lives[speaking.session_id])
    await watcher.until_told(speaking.session_id, speaking.finals)
    assert watcher.lives[speaking.session_id][-1] == "session.completed"
    assert watcher.rewinds == 0


def said(speaking: Speaking, pcm: bytes) -> bytes:
    """What somebody who was stopped had said of ``pcm`` by then."""
    assert speaking.completed is not None
    return pcm[: speaking.completed.samples * 2]


async def assert_told_once(watcher: Watching, speaking: Speaking) -> None:
    """An observer got the whole session, nothing of it twice and nothing withdrawn."""
    await assert_seen(watcher, speaking)
    assert watcher.lives[speaking.session_id] == LIFE


async def assert_in_order(
    speakers: Sequence[tuple[Person, Speaking]], watchers: Sequence[Watching], pcm: bytes
) -> None:
    """All have ended; speakers, observers, those who read the log from its beginning, and the archive tell the same."""
    for person, speaking in speakers:
        assert speaking.rewinds == 0
        for watcher in watchers:
            await assert_told_once(watcher, speaking)
        await assert_complete(person, speaking, said(speaking, pcm))
    person = speakers[0][0]
    async with watching(person, BEGINNING) as late:
        for _, speaking in speakers:
            await assert_told_once(late, speaking)
    listed = await person.listed()
    assert {listed[speaking.session_id] for _, speaking in speakers} == {"completed"}


async def assert_stands(person: Person, watchers: Sequence[Watching], speaking: Speaking, pcm: bytes) -> None:
    """Speaker, observers, the log and the archive tell the same finals without a gap, whatever was withdrawn before."""
    for watcher in watchers:
        await watcher.until(lambda one: "session.completed" in one.lives[speaking.session_id])
        assert watcher.standing[speaking.session_id] == as_told(speaking.finals), watcher.state()
    await assert_complete(person, speaking, said(speaking, pcm))
