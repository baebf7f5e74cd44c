"""The clinic's other screens: what an observer of a real server gets, and who becomes one."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import uuid6
from websockets.exceptions import InvalidStatus

from app.adapters.dev_issuer import DevIssuer
from app.adapters.local_keys import LocalKeys
from app.adapters.redis_batch import RedisBatch
from app.adapters.redis_client import redis_client
from app.adapters.redis_log import RedisEventLog
from app.adapters.redis_servers import servers_of
from app.auth.principal import Scope
from app.client.rest import RestClient
from app.client.session import StreamOptions
from app.events.log import LogUnavailable
from app.protocol.rest import CreateSession, SessionCreated
from tenants.clinic import ClinicId
from tenants.terms import SessionRef
from tests.e2e.conftest import StartServer
from tests.support.events import HERE, committed
from tests.support.raw_socket import PROTOCOL, RawSocket, problem_of, refusal, speaking, upgraded
from tests.support.redis_cluster import free_ports
from tests.support.redis_server import RedisServer
from tests.support.redis_server import running as redis_running
from tests.support.server import ServerProcess
from tests.support.speaking import Person, running

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

SECOND = bytes(32_000)
SESSION = CreateSession(language="en-US")
SPEECH_SECONDS = 30


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rest(recorder: ServerProcess) -> AsyncIterator[RestClient]:
    async with await recorder.rest() as rest:
        yield rest


@pytest_asyncio.fixture(loop_scope="module")
async def created(rest: RestClient) -> SessionCreated:
    return await rest.create(SESSION)


def minted(server: ServerProcess, clinic: str, *scopes: Scope) -> str:
    """A token as the ``token`` command prints it, without a process for each."""
    issuer = DevIssuer.open(server.data_dir)
    return issuer.mint("nurse", ClinicId(clinic), scopes, now=time.time(), lifetime_seconds=600)


def events_url(server: ServerProcess, query: str = "") -> str:
    return f"ws{server.url.removeprefix('http')}/v1/events{query}"


async def ticket(server: ServerProcess, path: str, body: object = None, clinic: str = "demo") -> str:
    headers = {"Authorization": f"Bearer {minted(server, clinic, Scope.READ, Scope.WRITE)}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False) as http:
        answer = await http.post(path, json=body)
        assert answer.status_code == 201, answer.text
        found: str = answer.json()["ticket"]
        return found


async def clinic_ticket(server: ServerProcess, clinic: str = "demo") -> str:
    return await ticket(server, "/v1/clinic/tickets", clinic=clinic)


async def session_ticket(server: ServerProcess, session_id: str) -> str:
    return await ticket(server, f"/v1/sessions/{session_id}/tickets", {"role": "observer"})


@asynccontextmanager
async def observing(url: str, ticket: str | None = None, **options: Any) -> AsyncIterator[RawSocket]:
    """An observer's socket, once the server has said ``subscribed``, which must be the first message."""
    async with upgraded(url, ticket, **options) as socket:
        await socket.until("subscribed")
        assert len(socket.messages) == 1
        yield socket


def of(socket: RawSocket, kind: str, session_id: str) -> list[dict[str, Any]]:
    return [m for m in socket.messages if m["type"] == kind and m["sessionId"] == session_id]


def check_chain(socket: RawSocket) -> None:
    """Each event names the one before it."""
    events = [m for m in socket.messages if "cursor" in m]
    assert [m["prev"] for m in events[1:]] == [m["cursor"] for m in events[:-1]]


async def test_an_observer_sees_a_session_from_its_beginning_to_its_end(
    transcriber: ServerProcess, sample_pcm: bytes
) -> None:
    pcm = sample_pcm[: SPEECH_SECONDS * 32_000]
    async with (
        await Person.of(transcriber) as person,
        observing(events_url(transcriber), await clinic_ticket(transcriber)) as everything,
    ):
        created = await person.create()
        session_id = created.session_id
        one = await session_ticket(transcriber, session_id)
        async with observing(events_url(transcriber), one) as single:
            speaker = person.speaking(created, pcm, StreamOptions(realtime=False))
            async with running(speaker):
                pass
            completed = await everything.until("session.completed")
            await single.until("session.completed")
    for socket in (everything, single):
        check_chain(socket)
        finals = of(socket, "final", session_id)
        assert [final["seq"] for final in finals] == list(range(1, len(finals) + 1))
        told = [(f.seq, f.id, f.start, f.end, f.text) for f in speaker.finals]
        assert told
        assert [(f["seq"], f["id"], f["start"], f["end"], f["text"]) for f in finals] == told
        assert finals[0].keys() == {
            "type", "sessionId", "cursor", "prev", "seq", "id", "start", "end", "text", "words", "language",
        }  # fmt: skip
        assert of(socket, "partial", session_id)
        assert {m["sessionId"] for m in socket.messages if "sessionId" in m} == {session_id}
    assert [m["type"] for m in everything.messages if m["type"].startswith("session.")] == [
        "session.created",
        "session.live",
        "session.completed",
    ]
    assert completed.keys() >= {"sessionId", "cursor", "prev", "at", "samples", "finals"}
    assert completed["samples"] == len(pcm) // 2


async def test_who_comes_later_is_replayed_what_happened_and_goes_on_from_any_cursor(
    recorder: ServerProcess, rest: RestClient, created: SessionCreated
) -> None:
    url = events_url(recorder, f"?session={created.session_id}&after=")
    async with observing(f"{url}0-0", await clinic_ticket(recorder)) as socket:
        assert socket.messages[0]["cursor"] == "0-0"
        first = await socket.until("session.created")
    async with observing(url + first["cursor"], await clinic_ticket(recorder)) as again:
        assert again.messages[0]["cursor"] == first["cursor"]
        async with speaking(created.stream_url, created.ticket) as speaker:
            await speaker.speak(SECOND)
            await speaker.heard()
            live = await again.until("session.live")
            await speaker.finish()
        await again.until("session.completed")
    assert live["prev"] == first["cursor"]
    check_chain(again)
    assert [m["type"] for m in again.messages] == ["subscribed", "session.live", "session.completed"]


async def test_another_clinics_events_are_not_heard(recorder: ServerProcess, rest: RestClient) -> None:
    await recorder.token("south")
    elsewhere = await clinic_ticket(recorder, "south")
    async with observing(events_url(recorder, "?after=0-0"), elsewhere) as socket:
        async with observing(events_url(recorder), await clinic_ticket(recorder)) as own:
            await rest.create(SESSION)
            await own.until("session.created")
        await socket.say("ping", id="heard")
        await socket.until("pong")
        assert [m["type"] for m in socket.messages] == ["subscribed", "pong"]


async def test_a_ticket_enters_once_and_a_bearer_needs_none(recorder: ServerProcess) -> None:
    used = await clinic_ticket(recorder)
    async with observing(events_url(recorder), used) as socket:
        assert socket.socket.subprotocol == PROTOCOL
        assert socket.socket.response is not None
        assert socket.socket.response.headers["X-Request-ID"]
    problem_of(await refusal(events_url(recorder), used), 401, "ticket_used")
    token = minted(recorder, "demo", Scope.READ)
    async with observing(events_url(recorder), bearer=token), observing(events_url(recorder), bearer=token):
        pass


Opening = Callable[[ServerProcess, SessionCreated], Awaitable[dict[str, Any]]]


async def _nobody(_server: ServerProcess, _created: SessionCreated) -> dict[str, Any]:
    return {}


async def _no_protocol(server: ServerProcess, _created: SessionCreated) -> dict[str, Any]:
    return {"offers": (f"ticket.{await clinic_ticket(server)}",)}


async def _speaker(_server: ServerProcess, created: SessionCreated) -> dict[str, Any]:
    return {"ticket": created.ticket}


async def _writer(server: ServerProcess, _created: SessionCreated) -> dict[str, Any]:
    return {"bearer": minted(server, "demo", Scope.WRITE)}


async def _reader(server: ServerProcess, _created: SessionCreated) -> dict[str, Any]:
    return {"bearer": minted(server, "demo", Scope.READ)}


@pytest.mark.parametrize(
    ("opening", "query", "refused"),
    [
        (_nobody, "", (401, "token_missing")),
        (_no_protocol, "", (401, "protocol_missing")),
        (_speaker, "", (403, "wrong_role")),
        (_writer, "", (403, "insufficient_scope")),
        (_reader, f"?session={uuid6.uuid7()}", (404, "not_found")),
        (_reader, "?session=..%2f..%2fetc", (404, "not_found")),
        (_reader, "?after=yesterday", (400, "bad_after")),
        (_reader, "?after=1-99999999999999999999", (400, "bad_after")),
        (_reader, "?after=0-0&after=0-0", (400, "bad_after")),
        (_reader, "?session=a&session=b", (400, "bad_session")),
    ],
)
async def test_who_may_not_observe_is_refused_before_the_upgrade(
    recorder: ServerProcess, created: SessionCreated, opening: Opening, query: str, refused: tuple[int, str]
) -> None:
    answer = await refusal(events_url(recorder, query), **await opening(recorder, created))
    problem_of(answer, *refused)


async def test_a_session_of_another_clinic_does_not_exist(
    recorder: ServerProcess, created: SessionCreated
) -> None:
    await recorder.token("south")
    stranger = minted(recorder, "south", Scope.READ)
    answer = await refusal(events_url(recorder, f"?session={created.session_id}"), bearer=stranger)
    problem_of(answer, 404, "not_found")


async def test_a_ticket_for_one_session_hears_of_no_other_whatever_the_query_says(
    recorder: ServerProcess, rest: RestClient, created: SessionCreated
) -> None:
    other = await rest.create(SESSION)
    one = await session_ticket(recorder, created.session_id)
    async with observing(events_url(recorder, f"?session={other.session_id}&after=0-0"), one) as socket:
        first = await socket.until("session.created")
        await socket.say("ping", id=1)
        assert (await socket.until("pong"))["id"] == 1
        assert first["sessionId"] == created.session_id
        assert [m["type"] for m in socket.messages] == ["subscribed", "session.created", "pong"]


@pytest.mark.parametrize(
    ("frame", "close_code", "word"),
    [
        (b"\0\0", 4403, "wrong_role"),
        ('{"type":"stop","position":0}', 4403, "wrong_role"),
        ('{"type":"flush"}', 4403, "wrong_role"),
        ("hello", 4400, "not_json"),
        ('{"type":"sing"}', 4400, "unknown_message"),
    ],
)
async def test_an_observer_that_says_anything_but_ping_is_closed(
    recorder: ServerProcess, frame: bytes | str, close_code: int, word: str
) -> None:
    async with observing(events_url(recorder), await clinic_ticket(recorder)) as socket:
        await socket.send(frame)
        await socket.refused(close_code, word)


async def test_a_cursor_that_nobody_knows_is_expired(
    recorder: ServerProcess, created: SessionCreated
) -> None:
    async with upgraded(events_url(recorder, "?after=1-1"), await clinic_ticket(recorder)) as socket:
        await socket.refused(4410, "cursor_expired")
    assert [m["type"] for m in socket.messages] == ["error"]


@pytest.fixture
def redis(need: Callable[[str], Path]) -> Iterator[RedisServer]:
    with redis_running(str(need("redis-server")), port=free_ports(1)[0]) as server:
        yield server


@pytest.mark.asyncio(loop_scope="function")
async def test_while_redis_is_away_observers_stay_and_are_told_and_a_ticket_keeps(
    server_factory: StartServer, redis: RedisServer
) -> None:
    async with (
        server_factory(engine="null", redis_url=f"redis://127.0.0.1:{redis.port}") as server,
        await server.rest() as rest,
    ):
        kept = await clinic_ticket(server)
        async with observing(events_url(server), await clinic_ticket(server)) as socket:
            redis.kill()
            assert (await socket.until("notice"))["code"] == "events_degraded"
            problem_of(await refusal(events_url(server), kept), 503, "log_unavailable")
            redis.start()
            assert (await socket.until("notice"))["code"] == "events_recovered"
            created = await rest.create(SESSION)
            assert (await socket.until("session.created"))["sessionId"] == created.session_id
        async with observing(events_url(server), kept):
            pass


@pytest.mark.long
@pytest.mark.asyncio(loop_scope="function")
async def test_beyond_its_limits_a_server_takes_no_observer_and_no_ticket(
    server_factory: StartServer,
) -> None:
    limits = {"max_observers": "2", "max_clinic_observers": "1"}
    async with server_factory(engine="null", **limits) as server:
        for clinic in ("north", "south", "west"):
            await server.token(clinic)
        kept = await clinic_ticket(server, "north")
        async with observing(events_url(server), await clinic_ticket(server, "north")):
            answer = await refusal(events_url(server), kept)
            problem_of(answer, 429, "quota")
            assert answer.headers["Retry-After"] == "2"
            async with observing(events_url(server), await clinic_ticket(server, "south")):
                west = minted(server, "west", Scope.READ)
                problem_of(await refusal(events_url(server), bearer=west), 503, "full")
        # A place is free as soon as the server has seen who had it go.
        async with asyncio.timeout(10):
            while not await entered(events_url(server), kept):
                continue


async def entered(url: str, ticket: str) -> bool:
    try:
        async with observing(url, ticket):
            return True
    except InvalidStatus:
        return False


@pytest.mark.asyncio(loop_scope="function")
async def test_on_sigterm_observers_are_sent_elsewhere(server_factory: StartServer) -> None:
    async with server_factory(engine="null") as server:
        async with observing(events_url(server), await clinic_ticket(server)) as socket:
            server.process.send_signal(signal.SIGTERM)
            assert await socket.closed() == 1012
        assert await server.process.wait() == 0


@pytest.mark.asyncio(loop_scope="function")
async def test_an_observer_that_does_not_read_is_sent_away_and_comes_back_with_its_cursor(
    server_factory: StartServer, redis: RedisServer
) -> None:
    async with server_factory(engine="null", redis_url=f"redis://127.0.0.1:{redis.port}") as server:
        url = events_url(server)
        async with (
            observing(url, await clinic_ticket(server)) as slow,
            observing(url, await clinic_ticket(server)) as other,
        ):
            slow.socket.transport.pause_reading()
            last = await flood(server, redis)
            while len(of(other, "final", HERE)) < last:
                await other.until("final")
            slow.socket.transport.resume_reading()
            assert await slow.closed() in (4411, 1006)
        got = of(slow, "final", HERE)
        assert len(got) < last
        cursor = got[-1]["cursor"] if got else slow.messages[0]["cursor"]
        async with observing(f"{url}?after={cursor}", await clinic_ticket(server)) as again:
            while len(got) + len(of(again, "final", HERE)) < last:
                await again.until("final")
        finals = got + of(again, "final", HERE)
        assert [final["seq"] for final in finals] == list(range(1, last + 1))


async def flood(server: ServerProcess, redis: RedisServer) -> int:
    """Commit more than any socket holds, as another task would; how many finals."""
    client = redis_client(redis.url)
    batch = RedisBatch(servers_of(client), LogUnavailable)
    log = RedisEventLog(batch, LocalKeys.in_folder(server.data_dir), commit_seconds=10.0)
    ref, count, text = SessionRef(ClinicId("demo"), HERE), 6_000, "x" * 4_000
    async with asyncio.TaskGroup() as group:
        running = group.create_task(batch.run())
        await log.announce(ref, 1, 0, "elsewhere")
        for first in range(1, count, 100):
            await log.commit(ref, 1, [committed(seq, text=text) for seq in range(first, first + 100)])
        running.cancel()
    await client.aclose()
    return count
