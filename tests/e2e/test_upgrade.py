"""Who gets onto a session's WebSocket, with what, and who does not."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
import pytest_asyncio
import uuid6

from app.adapters.dev_issuer import DevIssuer
from app.auth.principal import Scope
from app.client.errors import Refused
from app.client.rest import RestClient
from app.protocol.rest import CreateSession, SessionCreated
from tenants.clinic import ClinicId
from tests.support.raw_socket import PROTOCOL, problem_of, refusal, speaking
from tests.support.server import ServerProcess

pytestmark = [pytest.mark.timeout(60), pytest.mark.asyncio(loop_scope="module")]

WINDOW = 262_144
SECOND = bytes(32_000)
SESSION = CreateSession(language="ja-JP")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rest(recorder: ServerProcess) -> AsyncIterator[RestClient]:
    async with await recorder.rest() as rest:
        yield rest


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def token(recorder: ServerProcess) -> str:
    """A token of the doctor who creates the sessions, who may not take over a colleague's."""
    return minted(recorder, "doctor", Scope.WRITE, Scope.READ)


def minted(server: ServerProcess, subject: str, *scopes: Scope) -> str:
    """A token as the ``token`` command prints it, without a process for each."""
    issuer = DevIssuer.open(server.data_dir)
    return issuer.mint(subject, ClinicId("demo"), scopes, now=time.time(), lifetime_seconds=600)


@pytest_asyncio.fixture(loop_scope="module")
async def created(rest: RestClient) -> SessionCreated:
    return await rest.create(SESSION)


async def ticket_of(server: ServerProcess, token: str, session_id: str, role: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False) as http:
        return await http.post(f"/v1/sessions/{session_id}/tickets", json={"role": role})


async def test_a_ticket_opens_the_stream_and_ready_says_all_there_is_to_know(created: SessionCreated) -> None:
    async with speaking(created.stream_url, created.ticket) as socket:
        assert socket.socket.subprotocol == PROTOCOL == created.protocol
        assert socket.socket.response is not None
        assert socket.socket.response.headers["X-Request-ID"]
        ready = socket.messages[0]
        assert ready.keys() >= {"position", "window", "epoch", "resumeTicket", "config", "limits"}
        assert (ready["sessionId"], ready["position"], ready["window"]) == (created.session_id, 0, WINDOW)
        assert ready["epoch"] >= 1
        assert created.ticket not in str(ready)


async def test_a_client_that_can_set_headers_needs_no_ticket(created: SessionCreated, token: str) -> None:
    async with speaking(created.stream_url, bearer=token) as socket:
        assert socket.socket.subprotocol == PROTOCOL
        await socket.speak(SECOND)
        assert (await socket.finish())["samples"] == 16_000


async def test_a_ticket_counts_where_a_token_is_sent_as_well(created: SessionCreated, token: str) -> None:
    problem_of(await refusal(created.stream_url, "no.such.ticket", bearer=token), 401, "ticket_invalid")


async def test_without_ticket_and_token_there_is_no_way_in(created: SessionCreated) -> None:
    problem_of(await refusal(created.stream_url), 401, "token_missing")
    problem_of(await refusal(created.stream_url, bearer="a.b.c"), 401, "token_invalid")


@pytest.mark.parametrize(
    "offers", [(), ("kikitori.v2",), ("chat", "ticket.{}"), ("KIKITORI.V1", "ticket.{}")]
)
async def test_the_subprotocol_must_be_offered(created: SessionCreated, offers: tuple[str, ...]) -> None:
    filled = tuple(offer.format(created.ticket) for offer in offers)
    problem_of(await refusal(created.stream_url, offers=filled), 401, "protocol_missing")
    async with speaking(created.stream_url, created.ticket):
        pass  # A refused upgrade has not used the ticket up.


async def test_other_subprotocols_may_be_offered_beside_in_any_order(created: SessionCreated) -> None:
    offers = (f"ticket.{created.ticket}", "chat", PROTOCOL)
    async with speaking(created.stream_url, offers=offers) as socket:
        assert socket.socket.subprotocol == PROTOCOL


async def test_two_tickets_are_one_too_many(created: SessionCreated) -> None:
    offers = (PROTOCOL, f"ticket.{created.ticket}", "ticket.another")
    problem_of(await refusal(created.stream_url, offers=offers), 401, "ticket_invalid")


async def test_the_page_s_origins_are_let_in(created: SessionCreated, recorder: ServerProcess) -> None:
    async with speaking(created.stream_url, created.ticket, origin=recorder.url) as socket:
        resume = socket.messages[0]["resumeTicket"]
    async with speaking(created.stream_url, resume, origin=recorder.url.replace("127.0.0.1", "localhost")):
        pass


async def test_the_resume_ticket_works_again_and_again_until_the_end(created: SessionCreated) -> None:
    ticket = created.ticket
    for spoken in range(3):
        async with speaking(created.stream_url, ticket) as socket:
            assert socket.position == spoken * 16_000
            ticket = socket.messages[0]["resumeTicket"]
            await socket.speak(SECOND)
            await socket.heard()
    async with speaking(created.stream_url, ticket) as socket:
        completed = await socket.finish()
    for _ in range(2):
        async with speaking(created.stream_url, ticket) as socket:
            assert (socket.messages[0]["window"], await socket.until("completed")) == (0, completed)
            assert await socket.closed() == 1000


async def test_a_resume_ticket_is_for_its_own_session(rest: RestClient, created: SessionCreated) -> None:
    other = await rest.create(SESSION)
    async with speaking(created.stream_url, created.ticket) as socket:
        resume = socket.messages[0]["resumeTicket"]
    for ticket in (resume, created.ticket):
        problem_of(await refusal(other.stream_url, ticket), 404, "not_found")


async def test_a_newer_ticket_takes_the_session_from_the_older_connection(
    rest: RestClient, created: SessionCreated
) -> None:
    async with speaking(created.stream_url, created.ticket) as older:
        await older.speak(SECOND)
        await older.heard()
        newest = await rest.speaker_ticket(created.session_id)
        async with speaking(newest.stream_url, newest.ticket) as newer:
            assert newer.position == 16_000
            assert newer.messages[0]["epoch"] > older.messages[0]["epoch"]
            await older.refused(4409, "superseded")
            resumed = await refusal(created.stream_url, older.messages[0]["resumeTicket"])
            problem_of(resumed, 409, "superseded")
            await newer.speak(SECOND)
            assert (await newer.finish())["samples"] == 32_000


async def test_another_doctor_needs_the_scope_to_take_over(
    recorder: ServerProcess, created: SessionCreated
) -> None:
    plain = minted(recorder, "colleague", Scope.WRITE, Scope.READ)
    able = minted(recorder, "colleague", Scope.WRITE, Scope.TAKEOVER)
    refused = await ticket_of(recorder, plain, created.session_id, "speaker")
    problem_of(refused, 403, "not_the_speaker")
    problem_of(await refusal(created.stream_url, bearer=plain), 403, "not_the_speaker")
    granted = await ticket_of(recorder, able, created.session_id, "speaker")
    assert granted.status_code == 201
    # Issued before the creator came, and yet after the creator's own.
    async with (
        speaking(created.stream_url, created.ticket) as creator,
        speaking(created.stream_url, granted.json()["ticket"]) as colleague,
    ):
        await creator.refused(4409, "superseded")
        await colleague.speak(SECOND)
        assert (await colleague.finish())["samples"] == 16_000


async def test_a_token_that_may_only_read_cannot_speak(
    recorder: ServerProcess, created: SessionCreated
) -> None:
    reader = minted(recorder, "doctor", Scope.READ)
    problem_of(await refusal(created.stream_url, bearer=reader), 403, "insufficient_scope")
    refused = await ticket_of(recorder, reader, created.session_id, "speaker")
    problem_of(refused, 403, "insufficient_scope")
    assert (await ticket_of(recorder, reader, created.session_id, "observer")).status_code == 201


async def test_a_session_that_is_not_there_is_not_found(recorder: ServerProcess, token: str) -> None:
    address = f"ws{recorder.url.removeprefix('http')}/v1/sessions"
    for session_id in (str(uuid6.uuid7()), str(uuid6.uuid8()), "x", "%2e%2e"):
        problem_of(await refusal(f"{address}/{session_id}/stream", bearer=token), 404, "not_found")


async def test_no_other_path_is_a_websocket(recorder: ServerProcess, token: str) -> None:
    address = f"ws{recorder.url.removeprefix('http')}"
    for path in ("/", "/v1/sessions", "/v1/stream", "/healthz"):
        problem_of(await refusal(address + path, bearer=token), 404, "not_found")


async def test_a_refused_upgrade_changes_nothing_for_who_speaks(
    rest: RestClient, created: SessionCreated
) -> None:
    async with speaking(created.stream_url, created.ticket) as socket:
        await socket.speak(SECOND)
        problem_of(await refusal(created.stream_url, created.ticket), 401, "ticket_used")
        problem_of(await refusal(created.stream_url, "no.such.ticket"), 401, "ticket_invalid")
        await socket.speak(SECOND)
        assert (await socket.finish())["samples"] == 32_000


async def test_a_full_server_says_when_to_try_again(server_factory: Callable[..., ServerProcess]) -> None:
    async with server_factory(engine="null", max_sessions="1") as server, await server.rest() as rest:
        first, second = await rest.create(SESSION), await rest.create(SESSION)
        async with speaking(first.stream_url, first.ticket):
            problem_of(await refusal(second.stream_url, second.ticket), 503, "full")
            with pytest.raises(Refused, match="503 full"):
                await rest.create(SESSION)
            # Who is in already keeps the place, on whichever connection.
            newer = await rest.speaker_ticket(first.session_id)
            async with speaking(newer.stream_url, newer.ticket) as socket:
                await socket.finish()
        async with speaking(second.stream_url, second.ticket):
            pass


async def test_an_upgrade_with_a_monstrous_header_is_answered_and_closed(created: SessionCreated) -> None:
    assert (await refusal(created.stream_url, "x" * 20_000)).status_code == 431
