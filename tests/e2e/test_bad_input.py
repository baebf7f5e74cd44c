"""What must not be sent, sent to a server in which a session is being spoken all the while."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import SystemRandom
from typing import NamedTuple

import httpx
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from websockets.exceptions import ConnectionClosed

from app.adapters.file_registry import FileRegistry
from app.adapters.local_keys import LocalKeys
from app.auth.tickets import Tickets
from app.client.outbox import chunks
from app.client.rest import RestClient
from app.client.session import SpeakerClient, StreamOptions
from app.protocol.messages import Completed, Ready, ServerMessage
from app.protocol.rest import CreateSession, SessionCreated
from tenants.clinic import Clinic, ClinicId
from tests.support.raw_socket import RawSocket, problem_of, refusal, speaking
from tests.support.server import ServerProcess, log_lines

pytestmark = [pytest.mark.timeout(60), pytest.mark.asyncio(loop_scope="module")]

SECOND = bytes(range(250)) * 128
SESSION = CreateSession(language="ja-JP", title="coughing and a sore throat")
UNKNOWN = "01932c07-209c-7c8f-b09a-2b4c5d6e7f80"
FLOOD_FRAMES = 4_096
FLOOD_FRAME = b"\x01\x02" * 32_768
GARBAGE = "eyJnYXJiYWdl.eyJmZXZlciI6MX0.throat"


# The session beside ------------------------------------------------------------------------------------------------


@dataclass
class Neighbour:
    client: SpeakerClient
    run: asyncio.Task[Completed]


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def neighbour(recorder: ServerProcess, rest: RestClient, sample_pcm: bytes) -> AsyncIterator[Neighbour]:
    """A session that speaks the sample in real time while all of these tests run."""
    begun = asyncio.Event()

    def hear(event: ServerMessage) -> None:
        if isinstance(event, Ready):
            begun.set()

    # Tests and server share a machine: only the server's doings may count, not a slow moment of the tests'.
    options = StreamOptions(realtime=True, silence_seconds=15.0)
    source = itertools.cycle(chunks(sample_pcm))
    client = SpeakerClient(rest, await rest.create(SESSION), source, options, hear, random=SystemRandom())
    run = asyncio.create_task(client.run())
    await begun.wait()
    yield Neighbour(client, run)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def token(recorder: ServerProcess) -> str:
    return await recorder.token()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rest(recorder: ServerProcess, token: str) -> AsyncIterator[RestClient]:
    async with RestClient(recorder.url, token) as rest:
        yield rest


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(recorder: ServerProcess, token: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=recorder.url, headers=headers, trust_env=False) as http:
        yield http


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stranger(recorder: ServerProcess) -> str:
    """The token of another clinic's doctor, who may do everything there."""
    return await recorder.token("north")


@pytest_asyncio.fixture(loop_scope="module")
async def created(rest: RestClient) -> SessionCreated:
    return await rest.create(SESSION)


# Frames ------------------------------------------------------------------------------------------------------------


async def _goes_on(created: SessionCreated, ended: RawSocket, spoken: bytes) -> None:
    """The session can be resumed and holds what was ``spoken`` before, and nothing else."""
    async with speaking(created.stream_url, ended.messages[0]["resumeTicket"]) as socket:
        assert socket.position == len(spoken) // 2
        await socket.speak(SECOND)
        completed = await socket.finish()
    assert completed["samples"] == socket.position
    assert completed["audioSha256"] == sha256(spoken + SECOND).hexdigest()


@pytest.mark.parametrize(
    ("frame", "word"),
    [
        (b"", "bad_frame"),
        (b"\x01", "bad_frame"),
        (b"\x01" * 3_201, "bad_frame"),
        ("", "not_json"),
        ("coughing all week", "not_json"),
        ('{"type":"stop"', "not_json"),
        ('{"type":"ping","pad":' + "[" * 4_000, "not_json"),
        ("[]", "unknown_message"),
        ("null", "unknown_message"),
        ("{}", "unknown_message"),
        ('{"type":"breakfast"}', "unknown_message"),
        ('{"type":"ready"}', "unknown_message"),
        ('{"type":7}', "unknown_message"),
        ('{"type":"stop","position":"medicine"}', "unknown_message"),
        ('{"type":"stop","position":-1}', "unknown_message"),
        ('{"type":"stop","position":1e300}', "unknown_message"),
        ('{"type":"ping","id":{"fever":1}}', "unknown_message"),
        ('{"type":"ping","id":"' + "x" * 4_096 + '"}', "text_too_long"),
        ("morning " * 8_000, "text_too_long"),
    ],
    ids=lambda value: f"{value[:24]!r}" if isinstance(value, str) else str(len(value)),
)
async def test_a_frame_that_is_none_ends_the_connection_and_not_the_session(
    created: SessionCreated, frame: bytes | str, word: str
) -> None:
    async with speaking(created.stream_url, created.ticket) as socket:
        await socket.speak(SECOND)
        await socket.send(frame)
        await socket.refused(4400, word)
    await _goes_on(created, socket, SECOND)


@pytest.mark.parametrize(
    "frame", [bytes(65_538), b"x" * 1_000_000, "x" * 65_537], ids=lambda frame: f"{type(frame).__name__}"
)
async def test_a_frame_that_is_too_large_closes_1009(created: SessionCreated, frame: bytes | str) -> None:
    async with speaking(created.stream_url, created.ticket) as socket:
        await socket.speak(SECOND)
        await socket.heard()
        with suppress(ConnectionClosed):
            await socket.send(frame)
        assert await socket.closed() == 1009
    await _goes_on(created, socket, SECOND)


async def test_the_largest_frame_is_taken(created: SessionCreated) -> None:
    async with speaking(created.stream_url, created.ticket) as socket:
        await socket.speak(FLOOD_FRAME, len(FLOOD_FRAME))
        completed = await socket.finish()
    assert completed["audioSha256"] == sha256(FLOOD_FRAME).hexdigest()


async def test_text_that_is_no_text_closes_1007(created: SessionCreated) -> None:
    async with speaking(created.stream_url, created.ticket) as socket:
        await socket.speak(SECOND)
        await socket.heard()
        await socket.socket.send(b'{"type":"\xff"}', text=True)
        assert await socket.closed() == 1007
    await _goes_on(created, socket, SECOND)


async def test_a_flood_beyond_the_window_is_cut_off_and_nothing_of_the_frame_is_kept(
    created: SessionCreated,
) -> None:
    async with speaking(created.stream_url, created.ticket) as socket:
        with suppress(ConnectionClosed):
            for _ in range(FLOOD_FRAMES):
                await socket.send(FLOOD_FRAME)
        await socket.refused(4413, "window_exceeded")
    async with speaking(created.stream_url, socket.messages[0]["resumeTicket"]) as again:
        taken = again.position
        completed = await again.finish()
    assert taken >= 262_144
    assert taken % 32_768 == 0
    assert completed["samples"] == taken
    assert completed["audioSha256"] == sha256(FLOOD_FRAME * (taken // 32_768)).hexdigest()


async def test_a_stop_behind_what_was_received_is_refused(created: SessionCreated) -> None:
    async with speaking(created.stream_url, created.ticket) as socket:
        await socket.speak(SECOND)
        await socket.say("stop", position=15_999)
        await socket.refused(4400, "stop_behind")
    await _goes_on(created, socket, SECOND)


async def test_audio_after_the_stop_is_refused(created: SessionCreated) -> None:
    async with speaking(created.stream_url, created.ticket) as socket:
        await socket.speak(SECOND)
        await socket.say("stop", position=16_100)
        await socket.send(bytes(202))
        await socket.refused(4400, "audio_after_stop")
    async with speaking(created.stream_url, socket.messages[0]["resumeTicket"]) as again:
        assert again.position == 16_000
        await again.speak(bytes(200))
        completed = await again.finish()
    assert completed["audioSha256"] == sha256(SECOND + bytes(200)).hexdigest()


async def test_a_connection_that_is_cut_in_the_middle_of_everything_harms_nothing(
    created: SessionCreated,
) -> None:
    async with speaking(created.stream_url, created.ticket) as socket:
        await socket.speak(SECOND)
        await socket.heard()
        # A frame's head, and half of what it announces.
        socket.socket.transport.write(b"\x82\xfe\x0c\x80" + bytes(4) + bytes(1_600))
        socket.drop()
    await _goes_on(created, socket, SECOND)


# Tickets -----------------------------------------------------------------------------------------------------------


async def test_a_ticket_enters_once(created: SessionCreated) -> None:
    async with speaking(created.stream_url, created.ticket) as socket:
        problem_of(await refusal(created.stream_url, created.ticket), 401, "ticket_used")
    problem_of(await refusal(created.stream_url, created.ticket), 401, "ticket_used")
    await _goes_on(created, socket, b"")


async def test_a_ticket_expires(recorder: ServerProcess, created: SessionCreated) -> None:
    for resume, age in ((False, 61), (True, 48 * 3600 + 1)):
        ticket = _ticket(recorder, created, age, resume=resume)
        problem_of(await refusal(created.stream_url, ticket), 401, "ticket_expired")
    async with speaking(created.stream_url, _ticket(recorder, created)):
        pass  # What was refused was its age.


async def test_a_ticket_of_an_older_serial_comes_too_late(rest: RestClient, created: SessionCreated) -> None:
    newest = await rest.speaker_ticket(created.session_id)
    async with speaking(created.stream_url, newest.ticket) as socket:
        problem_of(await refusal(created.stream_url, created.ticket), 409, "superseded")
        await socket.speak(SECOND)
    problem_of(await refusal(created.stream_url, created.ticket), 409, "superseded")


async def test_a_ticket_that_is_none_is_refused(created: SessionCreated) -> None:
    head, claims, signature = created.ticket.split(".")
    granted = jwt.decode(created.ticket, options={"verify_signature": False})
    unsigned, own = jwt.encode(granted, "", "none"), jwt.encode(granted, "k" * 32)
    swapped = f"{head}.{claims}.{signature[::-1]}"
    for ticket in (GARBAGE, "x", swapped, f"{head}.{claims}.", unsigned, own, "x" * 5_000):
        problem_of(await refusal(created.stream_url, ticket), 401, "ticket_invalid")


async def test_an_observer_does_not_speak(http: httpx.AsyncClient, created: SessionCreated) -> None:
    of_session = await http.post(f"/v1/sessions/{created.session_id}/tickets", json={"role": "observer"})
    of_clinic = await http.post("/v1/clinic/tickets")
    for answer in (of_session, of_clinic):
        assert answer.status_code == 201
        problem_of(await refusal(created.stream_url, answer.json()["ticket"]), 403, "wrong_role")


@pytest.mark.parametrize(
    "after", ["", "x", "-1", "+1", "1.5", "1e3", "1_0", "%201", "%D9%A1", "9" * 400, "9" * 5_000, "1&after=2"]
)
async def test_a_wrong_after_is_refused_before_the_upgrade(created: SessionCreated, after: str) -> None:
    answer = await refusal(f"{created.stream_url}?after={after}", created.ticket)
    problem_of(answer, 400, "bad_after")
    async with speaking(f"{created.stream_url}?after=0", created.ticket):
        pass


async def test_an_after_beyond_the_last_final_is_put_right(created: SessionCreated) -> None:
    async with speaking(f"{created.stream_url}?after=7", created.ticket) as socket:
        notice = await socket.until("notice")
    assert (notice["code"], notice["seq"]) == ("finals_rewound", 0)


def _ticket(
    server: ServerProcess, created: SessionCreated, age_seconds: float = 0.0, *, resume: bool = False
) -> str:
    """A ticket such as the server issued that long ago."""
    key = LocalKeys.in_folder(server.data_dir).derive("tickets")
    tickets = Tickets(key, lambda: time.time() - age_seconds)
    return tickets.issue(
        clinic_id=ClinicId(created.clinic_id),
        session_id=created.session_id,
        subject="doctor",
        role="speaker",
        serial=int(time.time() * 1_000_000),
        resume=resume,
    ).token


# Tokens ------------------------------------------------------------------------------------------------------------


class Forge:
    """Tokens that are nearly right."""

    def __init__(self, token: str, data_dir: Path) -> None:
        self.kid: str = jwt.get_unverified_header(token)["kid"]
        self._claims = jwt.decode(token, options={"verify_signature": False})
        self._own = load_pem_private_key((data_dir / "dev-issuer.pem").read_bytes(), password=None)

    def signed(self, *, kid: str | None = None, without: str = "", **claims: object) -> str:
        """With the issuer's own key."""
        kept = {name: value for name, value in {**self._claims, **claims}.items() if name != without}
        return jwt.encode(kept, self._own, "EdDSA", headers={"kid": kid or self.kid})  # type: ignore[arg-type]

    def by_another(self) -> str:
        return jwt.encode(self._claims, Ed25519PrivateKey.generate(), "EdDSA", headers={"kid": self.kid})

    def unsigned(self) -> str:
        return jwt.encode(self._claims, "", "none", headers={"kid": self.kid})

    def by_public_key(self) -> str:
        """With the public key taken for a shared secret."""
        public = self._own.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return jwt.encode(self._claims, public, "HS256", headers={"kid": self.kid})

    def cut(self) -> str:
        return self.signed().rpartition(".")[0] + "."

    def altered(self) -> str:
        """Another clinic's claims under this one's signature."""
        own, other = self.signed().split("."), self.signed(clinic_id="north").split(".")
        return ".".join([own[0], other[1], own[2]])


class Forgery(NamedTuple):
    name: str
    make: Callable[[Forge], str]
    status: int = 401
    code: str = "token_invalid"


FORGERIES = [
    Forgery("another audience", lambda forge: forge.signed(aud="elsewhere")),
    Forgery("a ticket's audience", lambda forge: forge.signed(aud="kikitori:ticket")),
    Forgery("another issuer", lambda forge: forge.signed(iss="urn:elsewhere")),
    Forgery("alg:none", Forge.unsigned),
    Forgery("alg:HS256", Forge.by_public_key),
    Forgery("another key", Forge.by_another),
    Forgery("an unknown key", lambda forge: forge.signed(kid="0" * 16)),
    Forgery("no signature", Forge.cut),
    Forgery("altered claims", Forge.altered),
    Forgery("expired", lambda forge: forge.signed(exp=int(time.time()) - 60), 401, "token_expired"),
    Forgery("not yet valid", lambda forge: forge.signed(nbf=int(time.time()) + 600)),
    Forgery("no expiry", lambda forge: forge.signed(without="exp")),
    Forgery("no clinic", lambda forge: forge.signed(without="clinic_id")),
    Forgery("no subject", lambda forge: forge.signed(sub="")),
    Forgery("a clinic of the wrong type", lambda forge: forge.signed(clinic_id=["demo"])),
    Forgery("an unknown clinic", lambda forge: forge.signed(clinic_id="nowhere"), 403, "unknown_clinic"),
    Forgery("a clinic that is a path", lambda forge: forge.signed(clinic_id="../demo"), 403, "unknown_clinic"),
    Forgery("no scope", lambda forge: forge.signed(scope=""), 403, "insufficient_scope"),
    Forgery("an unknown scope", lambda forge: forge.signed(scope="sessions:all admin"), 403, "insufficient_scope"),
    Forgery("garbage", lambda _: GARBAGE),
]  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.name)
async def test_a_token_that_is_not_good_opens_nothing(
    recorder: ServerProcess, http: httpx.AsyncClient, token: str, created: SessionCreated, forgery: Forgery
) -> None:
    forged = forgery.make(Forge(token, recorder.data_dir))
    answers = [
        await http.get(f"/v1/sessions/{created.session_id}", headers={"Authorization": f"Bearer {forged}"}),
        await http.post("/v1/sessions", content=b"{", headers={"Authorization": f"Bearer {forged}"}),
        await refusal(created.stream_url, bearer=forged),
    ]
    for answer in answers:
        problem_of(answer, forgery.status, forgery.code)


async def test_a_token_that_is_far_too_long_is_not_even_read(
    recorder: ServerProcess, http: httpx.AsyncClient, token: str
) -> None:
    forged = Forge(token, recorder.data_dir).signed(pad="x" * 7_000)
    answer = await http.get("/v1/sessions", headers={"Authorization": f"Bearer {forged}"})
    problem_of(answer, 401, "token_invalid")


async def test_the_forger_s_own_token_is_good(
    recorder: ServerProcess, http: httpx.AsyncClient, token: str
) -> None:
    headers = {"Authorization": f"Bearer {Forge(token, recorder.data_dir).signed()}"}
    assert (await http.get("/v1/sessions", headers=headers)).status_code == 200


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic ZmV2ZXI6dGhyb2F0", "{token}"])
async def test_without_a_token_nothing_is_told(
    recorder: ServerProcess, token: str, header: str | None
) -> None:
    headers = {} if header is None else {"Authorization": header.format(token=token)}
    async with httpx.AsyncClient(base_url=recorder.url, trust_env=False) as http:
        for path in ("/v1/sessions", f"/v1/sessions/{UNKNOWN}", f"/v1/sessions/{UNKNOWN}/audio"):
            problem_of(await http.get(path, headers=headers), 401, "token_missing")


# Other clinics' sessions, and ids that are none ------------------------------------------------------------------------


async def test_another_clinic_s_session_is_as_if_it_were_not_there(
    http: httpx.AsyncClient, created: SessionCreated, stranger: str
) -> None:
    headers = {"Authorization": f"Bearer {stranger}"}
    for method, end, body in (
        ("GET", "", None),
        ("GET", "/transcript?format=vtt", None),
        ("GET", "/audio", None),
        ("POST", "/stop", None),
        ("POST", "/tickets", {"role": "speaker"}),
        ("POST", "/tickets", {"role": "observer"}),
    ):
        theirs, nobodys = [
            await http.request(method, f"/v1/sessions/{session_id}{end}", json=body, headers=headers)
            for session_id in (created.session_id, UNKNOWN)
        ]
        told = problem_of(theirs, 404, "not_found")
        assert problem_of(nobodys, 404, "not_found") == {**told, "requestId": nobodys.headers["x-request-id"]}
    problem_of(await refusal(created.stream_url, bearer=stranger), 404, "not_found")


async def test_another_clinic_s_ticket_opens_nothing_here(
    recorder: ServerProcess, created: SessionCreated, stranger: str
) -> None:
    async with RestClient(recorder.url, stranger) as elsewhere:
        theirs = await elsewhere.create(SESSION)
    problem_of(await refusal(created.stream_url, theirs.ticket), 404, "not_found")
    # Signed for their clinic, naming our session.
    forged = _ticket(recorder, SessionCreated(created.session_id, "north", "created", "", "", "", ""))
    problem_of(await refusal(created.stream_url, forged), 404, "not_found")


@pytest.mark.parametrize(
    "session_id",
    ["..", ".", "%2e%2e", "..%2f..%2fnorth", "..%2F", "%2e%2e%2f", "..%5c", "%00", "x", "0", "*", "%25", "%F0%9F%98%B7",
     UNKNOWN.upper(), UNKNOWN[:-1], UNKNOWN + "0", UNKNOWN + "%0a", "0" * 36, "x" * 2_000],
)  # fmt: skip
async def test_an_id_that_is_none_is_not_found(
    recorder: ServerProcess, http: httpx.AsyncClient, created: SessionCreated, session_id: str
) -> None:
    for end in ("", "/audio", "/transcript", "/../" + created.session_id):
        # The target as it stands: a client would tidy the dots away.
        target = {"target": f"/v1/sessions/{session_id}{end}".encode()}
        problem_of(await http.get("/", extensions=target), 404, "not_found")
    stream = created.stream_url.replace(created.session_id, session_id)
    problem_of(await refusal(stream, created.ticket), 404, "not_found")


# Where it comes from -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "{url}.evil.example", "https{rest}", "file://"]
)
async def test_pages_of_other_origins_are_turned_away(
    recorder: ServerProcess, http: httpx.AsyncClient, created: SessionCreated, origin: str
) -> None:
    origin = origin.format(url=recorder.url, rest=recorder.url.removeprefix("http"))
    for path in ("/v1/sessions", "/v1/config", "/", "/healthz"):
        problem_of(await http.get(path, headers={"Origin": origin}), 403, "origin_not_allowed")
    problem_of(await refusal(created.stream_url, created.ticket, origin=origin), 403, "origin_not_allowed")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:1", "127.0.0.1.evil.example", "[::1]:1"])
async def test_under_another_host_s_name_only_the_health_is_told(
    http: httpx.AsyncClient, created: SessionCreated, host: str
) -> None:
    for path in ("/v1/sessions", "/v1/config", "/", "/readyz", "/nothing"):
        problem_of(await http.get(path, headers={"Host": host}), 403, "host_not_allowed")
    problem_of(await refusal(created.stream_url, created.ticket, host=host), 403, "host_not_allowed")
    assert (await http.get("/healthz", headers={"Host": host})).status_code == 200


# Calls ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_json"),
        (b"{", 400, "malformed_json"),
        (b"coughing all week", 400, "malformed_json"),
        (b'{"language":"\xff"}', 400, "malformed_json"),
        (b"[" * 60_000, 422, "invalid_body"),
        (b"[]", 422, "invalid_body"),
        (b'"medicine"', 422, "invalid_body"),
        (b"{}", 422, "invalid_body"),
        (b'{"language":7}', 422, "invalid_body"),
        (b'{"language":"../x"}', 422, "invalid_body"),
        (b'{"language":"ja-JP","breakfast":"tea"}', 422, "invalid_body"),
        (b'{"language":"ja-JP","clinicId":"north"}', 422, "invalid_body"),
        (b'{"language":"ja-JP","title":"' + b"fever " * 40 + b'"}', 422, "invalid_body"),
        (b'{"language":"ja-JP","retentionDays":0}', 422, "invalid_body"),
        (b'{"language":"ja-JP","recording":"audio"}', 422, "invalid_body"),
        (b'{"language":"ja-JP","priority":"urgent"}', 422, "invalid_body"),
        (b'{"language":"ja-JP","consent":{"given":true}}', 422, "invalid_body"),
        (b'{"language":"ja-JP","consent":{"given":false,"at":"2026-11-20T09:00:00Z"}}', 422, "consent_missing"),
        (b'{"language":"ja-JP","vocabulary":"medicine"}', 422, "vocabulary_not_available"),
        (b'{"language":"ja-JP","title":"' + b"fever " * 11_000 + b'"}', 413, "body_too_large"),
    ],
    ids=lambda value: str(value[:40]) if isinstance(value, bytes) else None,
)  # fmt: skip
async def test_a_body_that_will_not_do_is_told_why(
    http: httpx.AsyncClient, body: bytes, status: int, code: str
) -> None:
    problem_of(await http.post("/v1/sessions", content=body), status, code)


async def test_a_body_that_does_not_tell_its_length_is_refused_when_it_is_too_long(
    http: httpx.AsyncClient,
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 65_536

    problem_of(await http.post("/v1/sessions", content=pieces()), 413, "body_too_large")


async def test_a_language_that_the_clinic_does_not_use_is_refused(
    recorder: ServerProcess, http: httpx.AsyncClient, token: str
) -> None:
    await FileRegistry(recorder.data_dir / "clinics.json").add(
        Clinic(ClinicId("south"), languages=("en-US",))
    )
    headers = {"Authorization": f"Bearer {Forge(token, recorder.data_dir).signed(clinic_id='south')}"}
    refused = await http.post("/v1/sessions", json={"language": "ja-JP"}, headers=headers)
    problem_of(refused, 422, "language_not_available")
    granted = await http.post("/v1/sessions", json={"language": "en-US"}, headers=headers)
    assert granted.status_code == 201


@pytest.mark.parametrize(
    "query",
    ["state=gone", "state=live&state=live", "limit=0", "limit=201", "limit=x", "from=yesterday", "to=2026-11-20",
     "fever=yes", "q=" + "x" * 201],
)  # fmt: skip
async def test_a_query_that_will_not_do_is_refused(http: httpx.AsyncClient, query: str) -> None:
    problem_of(await http.get(f"/v1/sessions?{query}"), 422, "invalid_query")


@pytest.mark.parametrize(
    "query", ["cursor=..%2f..", "cursor=%2B", "cursor=%00", "q=%5C%22*%5B", "externalId=%FF", "q=fever"]
)
async def test_strange_but_harmless_queries_find_nothing(http: httpx.AsyncClient, query: str) -> None:
    answer = await http.get(f"/v1/sessions?{query}")
    assert answer.status_code in {200, 422}


async def test_forms_that_there_are_not_are_refused(http: httpx.AsyncClient, created: SessionCreated) -> None:
    path = f"/v1/sessions/{created.session_id}"
    for end in ("/audio?format=mp3", "/transcript?format=pdf", "/audio?part=1"):
        problem_of(await http.get(path + end), 422, "invalid_query")
    problem_of(await http.post(f"{path}/tickets", json={"role": "owner"}), 422, "invalid_body")


async def test_paths_and_methods_that_there_are_not(http: httpx.AsyncClient, created: SessionCreated) -> None:
    for path in ("/v2/sessions", "/v1", "/v1/sessions/", "/metrics", "/console/nothing.js", "/favicon.ico"):
        problem_of(await http.get(path), 404, "not_found")
    for method, path, allowed in (
        ("PUT", "/v1/sessions", "GET, HEAD, POST"),
        ("DELETE", "/v1/sessions", "GET, HEAD, POST"),
        ("PATCH", f"/v1/sessions/{created.session_id}", None),
        ("GET", f"/v1/sessions/{created.session_id}/stop", "POST"),
        ("OPTIONS", f"/v1/sessions/{created.session_id}/tickets", "POST"),
        ("POST", "/v1/config", "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
    ):
        answer = await http.request(method, path)
        problem_of(answer, 405, "method_not_allowed")
        assert allowed in {None, answer.headers["allow"]}


async def test_a_stream_must_be_asked_for_as_a_websocket(
    http: httpx.AsyncClient, created: SessionCreated
) -> None:
    problem_of(await http.get(f"/v1/sessions/{created.session_id}/stream"), 426, "upgrade_required")


async def test_a_call_that_is_not_http_is_answered_and_closed(recorder: ServerProcess) -> None:
    host, _, port = recorder.url.removeprefix("http://").partition(":")
    for said in (
        b"\x16\x03\x01\x00\xa5\x01\x00\x00",
        b"FEVER /v1/sessions HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(said + b"\r\n\r\n")
        async with asyncio.timeout(10):
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        await writer.wait_closed()


# At the end ------------------------------------------------------------------------------------------------------------


async def test_none_of_it_disturbed_the_session_beside(neighbour: Neighbour) -> None:
    neighbour.client.stop()
    completed = await neighbour.run
    assert completed.audio_sha256 == neighbour.client.outbox.sha256()
    assert completed.samples == neighbour.client.outbox.sent_once > 0
    assert completed.coverage["archived"] == [(0, completed.samples)]
    sent = neighbour.client.sent
    assert (sent.connections, sent.samples_repeated, list(sent.refusals)) == (1, 0, [])


async def test_the_server_is_as_ready_as_before(http: httpx.AsyncClient) -> None:
    assert (await http.get("/readyz")).json()["status"] == "ready"


async def test_the_log_tells_of_no_fault_no_secret_and_nothing_that_was_said(recorder: ServerProcess) -> None:
    log = recorder.log()
    lines = log_lines(log)
    assert len(lines) > 100
    assert [line for line in lines if line["level"] in {"error", "critical"}] == []
    assert "Traceback" not in log
    assert re.findall(r"eyJ[\w-]{8,}", log) == []
    said = {"coughing", "throat", "breakfast", "medicine", "fever", "morning"}
    assert said & set(re.findall(r"[a-z]+", log.lower())) == set()
