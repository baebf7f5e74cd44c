"""The REST calls, against a real server: what they answer before, while and after somebody speaks."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
import soundfile

from tests.support.raw_socket import Message, RawSocket, eventually, problem_of, refusal, speaking
from tests.support.server import ServerProcess

pytestmark = [pytest.mark.timeout(90), pytest.mark.asyncio(loop_scope="module")]

SECOND = bytes(range(250)) * 128
SESSION = {"language": "ja-JP"}
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


async def _doctor(server: ServerProcess, clinic: str) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {await server.token(clinic)}"}
    return httpx.AsyncClient(base_url=server.url, headers=headers, timeout=20.0, trust_env=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(recorder: ServerProcess) -> AsyncIterator[httpx.AsyncClient]:
    """A doctor of the clinic that most of these tests are about."""
    async with await _doctor(recorder, "lotus-clinic") as http:
        yield http


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def neighbour(recorder: ServerProcess) -> AsyncIterator[httpx.AsyncClient]:
    """A doctor of another clinic, to whom only the tests of lists and of strangers send sessions."""
    async with await _doctor(recorder, "maple-clinic") as http:
        yield http


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def anybody(recorder: ServerProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=recorder.url, trust_env=False) as http:
        yield http


async def _create(http: httpx.AsyncClient, **fields: object) -> Message:
    answer = await http.post("/v1/sessions", json={**SESSION, **fields})
    assert answer.status_code == 201, answer.text
    created: Message = answer.json()
    return created


async def _get(http: httpx.AsyncClient, path: str) -> Message:
    answer = await http.get(path)
    assert answer.status_code == 200, answer.text
    body: Message = answer.json()
    return body


async def _in_state(http: httpx.AsyncClient, created: Message, state: str) -> Message:
    return await eventually(
        lambda: _get(http, f"/v1/sessions/{created['sessionId']}"), lambda view: view["state"] == state
    )


async def _spoken(http: httpx.AsyncClient, pcm: bytes, **fields: object) -> Message:
    """A completed session that holds ``pcm``."""
    created = await _create(http, **fields)
    async with speaking(created["streamUrl"], created["ticket"]) as socket:
        await socket.speak(pcm)
        await socket.finish()
    return created


# Creating ------------------------------------------------------------------------------------------------------------


async def test_a_new_session_comes_with_all_it_takes_to_speak(
    recorder: ServerProcess, http: httpx.AsyncClient
) -> None:
    answer = await http.post("/v1/sessions", json={**SESSION, "title": "Room 3", "metadata": {"room": "3"}})
    created = answer.json()
    assert answer.status_code == 201
    assert created.keys() == {
        "sessionId", "clinicId", "state", "streamUrl", "ticket", "ticketExpiresAt", "protocol",
    }  # fmt: skip
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", created["sessionId"]
    )
    assert (created["clinicId"], created["state"], created["protocol"]) == (
        "lotus-clinic", "created", "kikitori.v1",
    )  # fmt: skip
    assert created["streamUrl"] == f"ws{recorder.url[4:]}/v1/sessions/{created['sessionId']}/stream"
    lives = _time(created["ticketExpiresAt"]) - datetime.now(UTC)
    assert timedelta(seconds=30) < lives <= timedelta(seconds=60)
    view = await _get(http, f"/v1/sessions/{created['sessionId']}")
    assert (view["title"], view["metadata"], view["createdBy"]) == ("Room 3", {"room": "3"}, "doctor")
    assert (view["state"], view["language"], view["owner"]) == ("created", "ja-JP", None)
    assert view["positions"] == {"received": 0, "durable": 0, "settled": 0}
    assert abs(datetime.now(UTC) - _time(view["createdAt"])) < timedelta(seconds=20)


async def test_ids_are_in_the_order_of_time(http: httpx.AsyncClient) -> None:
    ids = [(await _create(http))["sessionId"] for _ in range(5)]
    assert ids == sorted(set(ids))


async def test_the_same_idempotency_key_is_the_same_session(
    http: httpx.AsyncClient, neighbour: httpx.AsyncClient
) -> None:
    headers = {"Idempotency-Key": "visit-1"}
    first, again = [await http.post("/v1/sessions", json=SESSION, headers=headers) for _ in range(2)]
    assert first.status_code == again.status_code == 201
    assert first.json()["sessionId"] == again.json()["sessionId"]
    assert first.json()["ticket"] != again.json()["ticket"]
    other = await http.post("/v1/sessions", json={**SESSION, "title": "another"}, headers=headers)
    problem_of(other, 422, "idempotency_key_reused")
    elsewhere = await neighbour.post("/v1/sessions", json=SESSION, headers=headers)
    assert elsewhere.json()["sessionId"] != first.json()["sessionId"]
    async with speaking(again.json()["streamUrl"], again.json()["ticket"]) as socket:
        await socket.speak(SECOND)
        await socket.finish()
    late = await http.post("/v1/sessions", json=SESSION, headers=headers)
    assert (late.status_code, late.json()["sessionId"]) == (201, first.json()["sessionId"])
    assert late.json()["state"] == "completed"


async def test_an_idempotency_key_is_the_callers_own(
    recorder: ServerProcess, http: httpx.AsyncClient
) -> None:
    headers = {"Idempotency-Key": "visit-2"}
    token = await recorder.token("lotus-clinic", subject="colleague")
    mine = await http.post("/v1/sessions", json=SESSION, headers=headers)
    theirs = await http.post(
        "/v1/sessions", json=SESSION, headers={**headers, "Authorization": f"Bearer {token}"}
    )
    assert mine.status_code == theirs.status_code == 201
    assert mine.json()["sessionId"] != theirs.json()["sessionId"]


async def test_calls_with_one_key_at_once_make_one_session(http: httpx.AsyncClient) -> None:
    statuses: set[int] = set()
    for _ in range(20):
        headers = {"Idempotency-Key": f"at-once-{uuid4()}"}
        calls = (http.post("/v1/sessions", json=SESSION, headers=headers) for _ in range(6))
        answers = await asyncio.gather(*calls)
        for answer in answers:
            assert answer.status_code == 201 or problem_of(answer, 409, "idempotency_in_flight")
        assert len({answer.json()["sessionId"] for answer in answers if answer.status_code == 201}) == 1
        statuses |= {answer.status_code for answer in answers}
        if 409 in statuses:
            break
    assert statuses == {201, 409}


# Looking -------------------------------------------------------------------------------------------------------------


async def test_a_session_is_seen_live_detached_and_completed(http: httpx.AsyncClient) -> None:
    created = await _create(http)
    path = f"/v1/sessions/{created['sessionId']}"
    async with speaking(created["streamUrl"], created["ticket"]) as socket:
        await socket.speak(SECOND * 2)
        await socket.say("flush")
        await socket.until("flushed")
        await socket.until_durable(32_000)
        live = await _get(http, path)
        assert live["state"] == "live"
        assert live["positions"] == {"received": 32_000, "durable": 32_000, "settled": 0}
        assert live["owner"]
        assert live["epoch"] == socket.messages[0]["epoch"]
        assert (live["audioSha256"], live["endedAt"]) == (None, None)
        socket.drop()
    detached = await _in_state(http, created, "detached")
    assert detached["samples"] == 32_000
    async with speaking(created["streamUrl"], socket.messages[0]["resumeTicket"]) as socket:
        completed = await socket.finish()
    view = await _in_state(http, created, "completed")
    assert view["audioSha256"] == completed["audioSha256"] == sha256(SECOND * 2).hexdigest()
    assert view["samples"] == 32_000
    assert view["coverage"]["archived"] == [[0, 32_000]]
    assert view["coverage"]["missing"] == []
    assert _time(view["createdAt"]) <= _time(view["startedAt"]) <= _time(view["endedAt"])
    # The owner lets go of a session a moment after it told its speaker.
    await eventually(lambda: _get(http, path), lambda view: view["owner"] is None)


@dataclass(frozen=True)
class Listed:
    """Sessions of one clinic, in the order in which they were created."""

    ids: list[str]
    made_at: list[datetime]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def listed(neighbour: httpx.AsyncClient) -> Listed:
    created = [
        await _create(neighbour, title="Morning round", externalId="case-1"),
        await _create(neighbour, title="Evening round", externalId="case-2"),
        await _create(neighbour, title="Room 100% <b>", externalId="case-3"),
        await _spoken(neighbour, SECOND, title="Second opinion", externalId="case-1"),
        await _create(neighbour, title="ラウンド", externalId="case-4"),
    ]
    views = [await _get(neighbour, f"/v1/sessions/{session['sessionId']}") for session in created]
    return Listed([session["sessionId"] for session in created], [_time(view["createdAt"]) for view in views])


async def _ids(http: httpx.AsyncClient, **query: str | int) -> list[str]:
    """The ids of all pages of a list."""
    ids: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = await http.get("/v1/sessions", params={**query, "cursor": cursor})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert page.keys() == {"items", "nextCursor"}
        assert len(page["items"]) <= int(query.get("limit", 50))
        ids += [item["sessionId"] for item in page["items"]]
        cursor = page["nextCursor"]
    return ids


async def test_a_list_is_newest_first_and_pages_neither_skip_nor_repeat(
    neighbour: httpx.AsyncClient, listed: Listed
) -> None:
    whole = await _ids(neighbour)
    assert [session_id for session_id in whole if session_id in listed.ids] == listed.ids[::-1]
    assert whole == sorted(set(whole), reverse=True)
    for limit in (1, 2, 3):
        assert await _ids(neighbour, limit=limit) == whole


async def test_a_list_grows_while_it_is_paged_and_still_repeats_nothing(
    http: httpx.AsyncClient, neighbour: httpx.AsyncClient, listed: Listed
) -> None:
    first = await _get(neighbour, "/v1/sessions?limit=2")
    await _create(neighbour)
    second = await _get(neighbour, f"/v1/sessions?limit=2&cursor={first['nextCursor']}")
    assert not {item["sessionId"] for item in first["items"]} & {
        item["sessionId"] for item in second["items"]
    }
    assert listed.ids[0] not in await _ids(http)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"q": "round"}, [1, 0]),
        ({"q": "ROUND"}, [1, 0]),
        ({"q": "100% <b"}, [2]),
        ({"q": "ラウ"}, [4]),
        ({"q": "%"}, [2]),
        ({"q": "*"}, []),
        ({"externalId": "case-1"}, [3, 0]),
        ({"externalId": "case"}, []),
        ({"q": "round", "externalId": "case-2"}, [1]),
        ({"state": "completed"}, [3]),
        ({"state": "cancelled"}, []),
        ({"state": "completed", "q": "round"}, []),
    ],
)
async def test_a_list_is_filtered(
    neighbour: httpx.AsyncClient, listed: Listed, query: dict[str, str], found: list[int]
) -> None:
    wanted = [listed.ids[index] for index in found]
    # The list hears of a change of state a moment after the session itself.
    await eventually(lambda: _ids(neighbour, **query), lambda ids: ids == wanted, 5)
    assert await _ids(neighbour, limit=1, **query) == wanted


async def test_a_list_is_filtered_by_time(neighbour: httpx.AsyncClient, listed: Listed) -> None:
    first, second, _, fourth, last = (moment.isoformat() for moment in listed.made_at)
    in_tokyo = listed.made_at[1].astimezone(datetime.strptime("+0900", "%z").tzinfo).isoformat()
    assert await _ids(neighbour, **{"from": second, "to": fourth}) == listed.ids[2:0:-1]
    assert await _ids(neighbour, **{"from": in_tokyo, "to": fourth}) == listed.ids[2:0:-1]
    assert (await _ids(neighbour, **{"from": first}))[-1] == listed.ids[0]
    assert listed.ids[0] not in await _ids(neighbour, **{"from": second})
    assert listed.ids[-1] not in await _ids(neighbour, to=last)
    assert await _ids(neighbour, **{"from": last, "to": first}) == []


async def test_two_clinics_see_their_own_only(
    http: httpx.AsyncClient, neighbour: httpx.AsyncClient, listed: Listed
) -> None:
    mine = (await _create(http))["sessionId"]
    ours, theirs = set(await _ids(http)), set(await _ids(neighbour))
    assert mine in ours
    assert set(listed.ids) <= theirs
    assert ours & theirs == set()
    for session_id in listed.ids:
        for end in ("", "/transcript", "/audio"):
            problem_of(await http.get(f"/v1/sessions/{session_id}{end}"), 404, "not_found")


# Audio ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """A completed session, what was said in it, and both of its files."""

    path: str
    pcm: bytes
    files: dict[str, bytes]
    etags: dict[str, str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recording(http: httpx.AsyncClient, sample_pcm: bytes) -> Recording:
    pcm = sample_pcm[: 12 * 32_000 + 2]
    path = f"/v1/sessions/{(await _spoken(http, pcm))['sessionId']}/audio"
    answers = {form: await http.get(path, params={"format": form}) for form in ("flac", "wav")}
    assert {answer.status_code for answer in answers.values()} == {200}
    return Recording(
        path,
        pcm,
        {form: answer.content for form, answer in answers.items()},
        {form: answer.headers["etag"] for form, answer in answers.items()},
    )


async def test_both_forms_decode_to_what_was_sent(http: httpx.AsyncClient, recording: Recording) -> None:
    for form, file in recording.files.items():
        samples, rate = soundfile.read(io.BytesIO(file), dtype="int16")
        assert (rate, samples.ndim) == (16_000, 1)
        assert samples.tobytes() == recording.pcm
        answer = await http.head(recording.path, params={"format": form})
        assert answer.headers["content-type"] == f"audio/{form}"
        assert recording.path.split("/")[3] in answer.headers["content-disposition"]
    assert (await http.get(recording.path)).content == recording.files["flac"]
    assert len(recording.files["flac"]) < len(recording.files["wav"]) == 44 + len(recording.pcm)


@pytest.mark.parametrize("form", ["flac", "wav"])
@pytest.mark.parametrize(
    "wanted",
    [
        "0-0",
        "0-43",
        "43-45",
        "44-",
        "1000-1999",
        "100001-100004",
        "-1",
        "-777",
        "-99999999",
        "50000-99999999",
    ],
)
async def test_a_range_is_served(
    http: httpx.AsyncClient, recording: Recording, form: str, wanted: str
) -> None:
    file = recording.files[form]
    answer = await http.get(recording.path, params={"format": form}, headers={"Range": f"bytes={wanted}"})
    first, _, last = wanted.partition("-")
    start = int(first) if first else max(0, len(file) - int(last))
    end = min(len(file), int(last) + 1) if first and last else len(file)
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(file)}"
    assert answer.headers["etag"] == recording.etags[form]
    assert answer.content == file[start:end]


@pytest.mark.parametrize("form", ["flac", "wav"])
@pytest.mark.parametrize(
    "wanted", ["bytes=9-3", "bytes=", "bytes=x-y", "seconds=0-1", "bytes=0-1,5-9", "0-1"]
)
async def test_a_range_that_is_none_gives_the_whole(
    http: httpx.AsyncClient, recording: Recording, form: str, wanted: str
) -> None:
    answer = await http.get(recording.path, params={"format": form}, headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (200, recording.files[form])
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("form", ["flac", "wav"])
async def test_a_range_behind_the_end_is_refused(
    http: httpx.AsyncClient, recording: Recording, form: str
) -> None:
    size = len(recording.files[form])
    for wanted in (f"bytes={size}-", f"bytes={size + 7}-{size + 9}", "bytes=-0"):
        answer = await http.get(recording.path, params={"format": form}, headers={"Range": wanted})
        problem_of(answer, 416, "range_not_satisfiable")
        assert answer.headers["content-range"] == f"bytes */{size}"


@pytest.mark.parametrize("form", ["flac", "wav"])
async def test_a_range_of_another_version_gives_the_whole(
    http: httpx.AsyncClient, recording: Recording, form: str
) -> None:
    other = recording.etags["wav" if form == "flac" else "flac"]
    for condition, status in (
        (recording.etags[form], 206),
        (other, 200),
        (f"W/{recording.etags[form]}", 200),
        ("Sat, 21 Nov 2026 08:00:00 GMT", 200),
    ):
        headers = {"Range": "bytes=0-9", "If-Range": condition}
        answer = await http.get(recording.path, params={"format": form}, headers=headers)
        assert (answer.status_code, len(answer.content)) == (
            status,
            10 if status == 206 else len(recording.files[form]),
        )


@pytest.mark.parametrize("form", ["flac", "wav"])
async def test_head_tells_the_same_without_the_body(
    http: httpx.AsyncClient, recording: Recording, form: str
) -> None:
    for headers in ({}, {"Range": "bytes=0-9"}):
        answer = await http.head(recording.path, params={"format": form}, headers=headers)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-length"] == str(len(recording.files[form]))
        assert (answer.headers["etag"], answer.headers["accept-ranges"]) == (recording.etags[form], "bytes")


async def test_audio_can_be_had_when_there_is_some(http: httpx.AsyncClient) -> None:
    created = await _create(http)
    path = f"/v1/sessions/{created['sessionId']}/audio"
    problem_of(await http.get(path), 409, "not_finished")
    async with speaking(created["streamUrl"], created["ticket"]) as socket:
        await socket.say("flush")
        await socket.until("flushed")
        problem_of(await http.get(path), 409, "not_finished")
        completed = await socket.finish()
    assert (completed["samples"], completed["finals"]) == (0, 0)
    problem_of(await http.get(path), 409, "no_audio")


# Stopping ------------------------------------------------------------------------------------------------------------


async def test_a_session_whose_speaker_is_gone_is_stopped_from_outside(http: httpx.AsyncClient) -> None:
    created = await _create(http)
    stop = f"/v1/sessions/{created['sessionId']}/stop"
    async with speaking(created["streamUrl"], created["ticket"]) as socket:
        await socket.speak(SECOND)
        problem_of(await http.post(stop), 409, "speaker_connected")
        await socket.speak(SECOND)
        await socket.heard()
        socket.drop()
    await _in_state(http, created, "detached")
    assert (await http.post(stop)).status_code == 202
    view = await _in_state(http, created, "completed")
    assert (view["samples"], view["audioSha256"]) == (32_000, sha256(SECOND * 2).hexdigest())
    assert (await http.post(stop)).status_code == 202
    async with speaking(created["streamUrl"], socket.messages[0]["resumeTicket"]) as late:
        assert late.messages[0]["window"] == 0
        assert (await late.until("completed"))["samples"] == 32_000
        assert await late.closed() == 1000


async def test_a_session_in_which_nobody_spoke_is_stopped_too(http: httpx.AsyncClient) -> None:
    created = await _create(http)
    assert (await http.post(f"/v1/sessions/{created['sessionId']}/stop")).status_code == 202
    view = await eventually(
        lambda: _get(http, f"/v1/sessions/{created['sessionId']}"), lambda view: view["state"] != "created"
    )
    assert (view["state"], view["samples"]) == ("cancelled", 0)


# Tickets -------------------------------------------------------------------------------------------------------------


async def test_tickets_lead_where_they_are_good(recorder: ServerProcess, http: httpx.AsyncClient) -> None:
    created = await _create(http)
    path = f"/v1/sessions/{created['sessionId']}/tickets"
    answers = {
        "speaker": await http.post(path, json={"role": "speaker"}),
        "observer": await http.post(path, json={"role": "observer"}),
        "clinic": await http.post("/v1/clinic/tickets"),
    }
    for answer in answers.values():
        assert answer.status_code == 201
        assert answer.json().keys() == {"ticket", "ticketExpiresAt", "streamUrl"}
        assert _time(answer.json()["ticketExpiresAt"]) - datetime.now(UTC) <= timedelta(seconds=60)
    speaker, observer, clinic = (answer.json()["streamUrl"] for answer in answers.values())
    assert speaker == created["streamUrl"]
    assert observer == f"ws{recorder.url[4:]}/v1/events?session={created['sessionId']}"
    assert clinic == f"ws{recorder.url[4:]}/v1/events"
    async with speaking(speaker, answers["speaker"].json()["ticket"]):
        problem_of(await refusal(speaker, created["ticket"]), 409, "superseded")


# Transcripts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Consultation:
    """What a server that transcribes told its speaker, and what REST told of it, live and in the end."""

    finals: list[Message]
    live: dict[str, httpx.Response]
    heard_live: int
    samples: int
    ended: dict[str, httpx.Response]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def consultation(transcriber: ServerProcess, sample_pcm: bytes) -> Consultation:
    async with await _doctor(transcriber, "lotus-clinic") as http:
        refused = await http.post("/v1/sessions", json={"language": "ja-JP"})
        problem_of(refused, 422, "language_not_available")
        created = await _create(http, language="en-US")
        path = f"/v1/sessions/{created['sessionId']}/transcript"
        async with speaking(created["streamUrl"], created["ticket"]) as socket:
            await socket.speak(sample_pcm[: 8 * 32_000])
            await socket.say("flush")
            flushed = await _until_flushed(socket)
            live = await _transcripts(http, path)
            await socket.speak(sample_pcm[8 * 32_000 : 11 * 32_000])
            completed = await socket.finish()
            finals = [message for message in socket.messages if message["type"] == "final"]
        assert completed["finals"] == len(finals)
        return Consultation(
            finals, live, flushed["seq"], completed["samples"], await _transcripts(http, path)
        )


async def _until_flushed(socket: RawSocket) -> Message:
    """The engine's processes start with their first session, and decode as fast as the machine lets them."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await socket.until("flushed")
            except TimeoutError:
                continue


async def _transcripts(http: httpx.AsyncClient, path: str) -> dict[str, httpx.Response]:
    answers = {form: await http.get(path, params={"format": form}) for form in ("json", "txt", "srt", "vtt")}
    assert {answer.status_code for answer in answers.values()} == {200}
    assert (await http.get(path)).json() == answers["json"].json()
    return answers


def _words(finals: list[Message]) -> list[str]:
    return " ".join(final["text"] for final in finals).split()


def _told(consultation: Consultation) -> Iterator[tuple[list[Message], dict[str, httpx.Response]]]:
    """The finals that there were, and the transcripts of that moment: while live, and in the end."""
    yield consultation.finals[: consultation.heard_live], consultation.live
    yield consultation.finals, consultation.ended


async def test_a_transcript_has_the_finals_that_the_speaker_had(consultation: Consultation) -> None:
    assert consultation.heard_live >= 1
    assert len(consultation.finals) > consultation.heard_live
    states = [answers["json"].json()["state"] for _, answers in _told(consultation)]
    assert states == ["live", "completed"]
    for finals, answers in _told(consultation):
        transcript = answers["json"].json()
        assert transcript["finals"] == [
            {name: value for name, value in final.items() if name != "type"} for final in finals
        ]
        assert transcript["language"] == "en-US"
        assert [final["seq"] for final in finals] == list(range(1, len(finals) + 1))
        for before, after in pairwise(finals):
            assert before["end"] <= after["start"]
    assert consultation.ended["json"].json()["samples"] == consultation.samples == 11 * 16_000
    assert len(_words(consultation.finals)) >= 10


async def test_a_transcript_as_text_has_a_line_for_each_final(consultation: Consultation) -> None:
    for finals, answers in _told(consultation):
        assert answers["txt"].headers["content-type"] == "text/plain; charset=utf-8"
        lines = answers["txt"].text.splitlines()
        assert len(lines) == len(finals)
        for line, final in zip(lines, finals, strict=True):
            second = final["start"] // 16_000
            assert line == f"[{second // 60:02}:{second % 60:02}] {final['text']}"


@pytest.mark.parametrize(
    ("form", "media_type", "mark"), [("srt", "application/x-subrip", ","), ("vtt", "text/vtt", ".")]
)
async def test_subtitles_hold_every_word_at_its_time(
    consultation: Consultation, form: str, media_type: str, mark: str
) -> None:
    for finals, answers in _told(consultation):
        assert answers[form].headers["content-type"] == f"{media_type}; charset=utf-8"
        blocks = answers[form].text.strip().split("\n\n")
        if form == "vtt":
            assert blocks.pop(0) == "WEBVTT"
        cues = [block.splitlines() for block in blocks]
        if form == "srt":
            assert [cue.pop(0) for cue in cues] == [str(number) for number in range(1, len(cues) + 1)]
        spans = [tuple(_seconds(moment, mark) for moment in cue[0].split(" --> ")) for cue in cues]
        assert all(start < end for start, end in spans)
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
        assert spans[-1][1] <= consultation.samples / 16_000
        assert " ".join(line for cue in cues for line in cue[1:]).split() == _words(finals)


async def test_nothing_that_was_said_is_in_the_log(
    consultation: Consultation, transcriber: ServerProcess
) -> None:
    log = transcriber.log().lower()
    said = [" ".join(pair).lower() for pair in pairwise(_words(consultation.finals))]
    assert [pair for pair in said if pair in log] == []
    assert re.findall(r"eyj[\w-]{8,}", log) == []


# The server itself ---------------------------------------------------------------------------------------------------


async def test_config_tells_the_page_what_it_needs_and_a_doctor_more(
    anybody: httpx.AsyncClient, http: httpx.AsyncClient, transcriber: ServerProcess
) -> None:
    page = await _get(anybody, "/v1/config")
    assert (page["protocol"], page["engine"], page["signIn"]["mode"]) == (
        "kikitori.v1",
        "null",
        "development",
    )
    assert "clinicId" not in page
    doctor = await _get(http, "/v1/config")
    assert doctor["clinicId"] == "lotus-clinic"
    assert doctor["consentRequired"] is False
    assert doctor["limits"]
    bad = await anybody.get("/v1/config", headers={"Authorization": "Bearer a.b.c"})
    problem_of(bad, 401, "token_invalid")
    speaks = (await anybody.get(f"{transcriber.url}/v1/config")).json()
    assert (speaks["engine"], speaks["languages"]) == ("pocketsphinx", ["en-US"])


async def test_probes_answer_anybody(anybody: httpx.AsyncClient) -> None:
    assert await _get(anybody, "/healthz") == {"status": "ok"}
    ready = await _get(anybody, "/readyz")
    assert ready == {"status": "ready", "checks": {"redis": "ok", "archive": "ok", "engine": "ok"}}
    for path in ("/healthz", "/readyz"):
        assert (await anybody.head(path)).status_code == 200


async def test_every_answer_has_an_id_that_the_caller_may_choose(
    anybody: httpx.AsyncClient, http: httpx.AsyncClient
) -> None:
    for client, path in (
        (anybody, "/"),
        (anybody, "/nothing"),
        (http, "/v1/sessions"),
        (anybody, "/healthz"),
    ):
        chosen = await client.get(path, headers={"X-Request-ID": "ward-7.a_B"})
        assert chosen.headers["x-request-id"] == "ward-7.a_B"
        given = [(await client.get(path)).headers["x-request-id"] for _ in range(2)]
        assert all(given)
        assert given[0] != given[1]
        for harmful in ("a b", "x" * 65, "<script>", ""):
            answer = await client.get(path, headers={"X-Request-ID": harmful})
            assert answer.headers["x-request-id"] not in {harmful, ""}


async def test_answers_say_how_they_may_be_used(anybody: httpx.AsyncClient, http: httpx.AsyncClient) -> None:
    page = await anybody.get("/")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert page.headers["content-type"].startswith("text/html")
    assert (policy["default-src"], policy["script-src"]) == ("'self'", "'self'")
    assert (policy["frame-ancestors"], policy["object-src"], policy["base-uri"]) == (
        "'none'",
        "'none'",
        "'none'",
    )
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["permissions-policy"] == "microphone=(self)"
    for answer in (page, await http.get("/v1/sessions"), await anybody.get("/nothing")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers
    assert (await http.get("/v1/sessions")).headers["cache-control"] == "no-store"


async def test_metrics_are_told_on_the_admin_address_only_and_name_nobody(
    recorder: ServerProcess, anybody: httpx.AsyncClient, http: httpx.AsyncClient
) -> None:
    problem_of(await anybody.get("/metrics"), 404, "not_found")
    async with httpx.AsyncClient(base_url=recorder.admin_url, trust_env=False) as admin:

        async def counts() -> dict[str, float]:
            answer = await admin.get("/metrics")
            assert answer.headers["content-type"].startswith("text/plain")
            found = re.findall(r'^kikitori_sessions\{state="(\w+)"\} (\S+)$', answer.text, re.MULTILINE)
            return {state: float(count) for state, count in found}

        before = await counts()
        created = await _create(http)
        async with speaking(created["streamUrl"], created["ticket"]) as socket:
            await socket.speak(SECOND)
            await socket.heard()
            assert (await counts())["live"] == before["live"] + 1
            await socket.finish()
        await eventually(counts, lambda now: now["live"] == before["live"])
        text = (await admin.get("/metrics")).text
    assert re.search(r"^kikitori_audio_frames_total [1-9]", text, re.MULTILINE)
    assert re.search(r'^kikitori_http_requests_total\{.*route="/v1/sessions".*\} [1-9]', text, re.MULTILINE)
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-7", text)
    assert not re.search("lotus|maple|doctor|round", text)
    assert set(re.findall(r'[{,]([a-z_]+)="', text)) <= {
        "state", "code", "method", "route", "status", "reason", "le", "implementation", "major", "minor",
        "patchlevel", "version", "generation",
    }  # fmt: skip


# OpenAPI -------------------------------------------------------------------------------------------------------------


async def test_the_description_is_openapi(anybody: httpx.AsyncClient) -> None:
    document = await _get(anybody, "/openapi.json")
    assert document["openapi"].startswith("3.1.")
    assert document["info"].keys() >= {"title", "version"}
    names: list[str] = []
    for path, item in document["paths"].items():
        assert path.startswith("/")
        assert item.keys() <= METHODS
        for operation in item.values():
            names.append(operation["operationId"])
            in_path = {entry["name"] for entry in operation["parameters"] if entry["in"] == "path"}
            assert in_path == set(re.findall(r"\{(\w+)\}", path))
            for entry in operation["parameters"]:
                assert entry.keys() >= {"name", "in", "schema"}
                assert entry["in"] != "path" or entry["required"] is True
            assert all(answer["description"] for answer in operation["responses"].values())
            schemes = {name for wanted in operation["security"] for name in wanted}
            assert schemes <= document["components"]["securitySchemes"].keys()
    assert len(set(names)) == len(names)
    for reference in _references(document):
        found: Any = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


async def test_every_documented_call_answers_as_documented(
    http: httpx.AsyncClient, anybody: httpx.AsyncClient, recording: Recording
) -> None:
    document = await _get(anybody, "/openapi.json")
    bodies = {"createSession": SESSION, "createTicket": {"role": "observer"}}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            address = path.replace("{session_id}", recording.path.split("/")[3])
            body = bodies.get(operation["operationId"])
            for client in (http, anybody):
                answer = await client.request(method, address, json=body)
                _as_documented(operation, answer)
                good = client is http or not any(operation["security"])
                assert operation["operationId"] in {"speak", "observe"} or not good or answer.is_success


def _as_documented(operation: Message, answer: httpx.Response) -> None:
    documented = operation["responses"]
    assert str(answer.status_code) in documented, (operation["operationId"], answer.text)
    content = documented[str(answer.status_code)].get("content", {})
    media_type = answer.headers.get("content-type", "").partition(";")[0]
    assert media_type in content if content else not answer.content


def _time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    assert moment.tzinfo is not None
    return moment


def _seconds(moment: str, mark: str) -> float:
    found = re.fullmatch(rf"(\d\d):([0-5]\d):([0-5]\d){re.escape(mark)}(\d\d\d)", moment)
    assert found, moment
    hours, minutes, seconds, milliseconds = map(int, found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
