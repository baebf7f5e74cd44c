"""The emulator's WebSocket interface through `websockets`, signed by Amazon's own code (awscrt)."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from amazon_transcribe.auth import Credentials
from amazon_transcribe.eventstream import EventSigner, EventStreamMessageSerializer
from awscrt.auth import (  # type: ignore[import-untyped]
    AwsCredentialsProvider,
    AwsSignatureType,
    AwsSignedBodyValue,
    AwsSigningAlgorithm,
    AwsSigningConfig,
    aws_sign_request,
)
from awscrt.http import HttpHeaders, HttpRequest  # type: ignore[import-untyped]
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from loadtest.emulator.chunks import AUDIO_HEADERS
from loadtest.emulator.eventstream import decode, encode
from loadtest.emulator.faults import Fault, FaultKind
from loadtest.emulator.problems import UNEXPECTED_FRAME, Kind
from loadtest.emulator.server import Options, Ports, emulator
from loadtest.emulator.service import Quotas, Service
from loadtest.emulator.stream import Rules

SOUND = {"language-code": "ja-JP", "media-encoding": "pcm", "sample-rate": "16000"}
SECRET = "SECRETEXAMPLE"
SESSION = "0b0e8b5e-4b1c-4f4e-9d8a-7d3b5a0c9f10"
PATH = "/stream-transcription-websocket"


class House(NamedTuple):
    ports: Ports
    service: Service
    trust: ssl.SSLContext


@asynccontextmanager
async def running(folder: Path, options: Options) -> AsyncIterator[House]:
    ca = folder / "ca.pem"
    async with emulator(replace(options, ca_out=ca)) as (ports, service):
        yield House(ports, service, ssl.create_default_context(cafile=str(ca)))


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with running(tmp_path, Options(rules=Rules(idle=0.6), quotas=Quotas(2, 25))) as found:
        yield found
        for _ in range(30):
            if not found.service.ledger.open_connections:
                break
            await asyncio.sleep(0.1)
        assert (found.service.ledger.open_connections, found.service.ledger.open_streams) == (0, 0)


@pytest.fixture(scope="module")
def pcm(sample_wav: Path) -> bytes:
    with wave.open(str(sample_wav)) as file:
        return bytes(file.readframes(10 * 16_000))


def presign(
    house: House,
    *,
    secret: str = SECRET,
    ago: float = 0,
    expires: int = 300,
    **more: str,
) -> str:
    host = f"localhost:{house.ports.ws}"
    asked = {**SOUND, **{name.replace("_", "-"): value for name, value in more.items()}}
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in asked.items())
    config = AwsSigningConfig(
        algorithm=AwsSigningAlgorithm.V4,
        signature_type=AwsSignatureType.HTTP_REQUEST_QUERY_PARAMS,
        credentials_provider=AwsCredentialsProvider.new_static("AKIDEXAMPLE", secret),
        region="ap-northeast-1",
        service="transcribe",
        date=datetime.now(UTC) - timedelta(seconds=ago),
        signed_body_value=AwsSignedBodyValue.EMPTY_SHA256,
        expiration_in_seconds=expires,
    )
    request = HttpRequest("GET", f"{PATH}?{query}", HttpHeaders([("Host", host)]))
    return f"wss://{host}{aws_sign_request(request, config).result(10).path}"


def audio(pcm: bytes) -> bytes:
    return encode(AUDIO_HEADERS, pcm)


async def speak(socket: ClientConnection, pcm: bytes, *, pace: float = 0.002, end: bool = True) -> None:
    for at in range(0, len(pcm), 3200):
        await socket.send(audio(pcm[at : at + 3200]))
        await asyncio.sleep(pace)
    if end:
        await socket.send(audio(b""))


async def listen(socket: ClientConnection) -> tuple[list[str], str, str, int | None]:
    """The finals, an exception's name and message, and the code with which the connection was closed."""
    finals: list[str] = []
    name = text = ""
    try:
        async for data in socket:
            assert isinstance(data, bytes)
            message = decode(data)
            body: dict[str, Any] = json.loads(message.payload)
            if message.headers[":message-type"] == "exception":
                name, text = str(message.headers[":exception-type"]), body["Message"]
            else:
                results = body["Transcript"]["Results"]
                finals += [r["Alternatives"][0]["Transcript"] for r in results if not r["IsPartial"]]
    except ConnectionClosed:
        pass
    received = socket.protocol.close_rcvd
    return finals, name, text, received.code if received else None


async def run(house: House, pcm: bytes, session_id: str = SESSION) -> tuple[list[str], str, str, int | None]:
    url = presign(house, session_id=session_id)
    async with connect(url, ssl=house.trust) as socket, asyncio.TaskGroup() as tasks:
        speaking = tasks.create_task(quietly(speak(socket, pcm)))
        told = await asyncio.wait_for(listen(socket), 20)
        speaking.cancel()
    return told


async def quietly(speaking: Any) -> None:
    try:
        await speaking
    except ConnectionClosed:
        return


async def test_a_transcription_ends_with_1000(house: House, pcm: bytes) -> None:
    finals, name, _, code = await run(house, pcm)
    assert (len(finals), name, code) == (3, "", 1000)
    (account,) = house.service.ledger.sessions(SESSION)
    assert (account["region"], account["wire"], account["ended"]) == (
        "ap-northeast-1",
        "websocket",
        "finished",
    )


async def test_signed_messages_are_accepted_when_they_are_right(house: House) -> None:
    url = presign(house)
    prior = bytes.fromhex(url.rpartition("X-Amz-Signature=")[2][:64])
    for secret, expected in (("SECRETEXAMPLE", ""), ("WRONG", "BadRequestException")):
        async with connect(url, ssl=house.trust) as socket:
            headers = EventSigner("transcribe", "ap-northeast-1").sign(
                b"", prior, Credentials("AKIDEXAMPLE", secret)
            )
            await socket.send(EventStreamMessageSerializer().serialize(headers, b""))
            assert (await listen(socket))[1] == expected


async def test_what_is_wrong_is_said_after_the_upgrade(house: House) -> None:
    wrong = {
        presign(house, secret="WRONG"): Kind.INVALID_SIGNATURE,
        presign(house).replace("ja-JP", "en-US"): Kind.INVALID_SIGNATURE,
        presign(house, ago=299, expires=200): Kind.INVALID_SIGNATURE,
        presign(house, expires=301): Kind.BAD_REQUEST,
        presign(house, language_code="tlh-KX"): Kind.BAD_REQUEST,
        presign(house).replace("AKIDEXAMPLE", "AKIDNOBODY"): Kind.UNRECOGNIZED_CLIENT,
    }
    for url, kind in wrong.items():
        async with connect(url, ssl=house.trust) as socket:
            _, name, _, code = await listen(socket)
        assert (name, code) == (kind, 1000)
    assert sum(house.service.ledger.refusals.values()) == len(wrong)


async def test_or_before_it_where_that_is_chosen(tmp_path: Path) -> None:
    async with running(tmp_path, Options(refuse_by_status=True)) as house:
        with pytest.raises(InvalidStatus) as caught:
            await connect(presign(house, secret="WRONG"), ssl=house.trust)
    assert caught.value.response.status_code == 403
    assert caught.value.response.headers["x-amzn-ErrorType"] == "InvalidSignatureException"
    assert b"does not match" in caught.value.response.body


async def test_another_path_does_not_exist(house: House) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await connect(presign(house).replace(PATH, "/other"), ssl=house.trust)
    assert caught.value.response.status_code == 404


async def test_a_region_is_full_and_a_session_can_start_again(house: House) -> None:
    async with connect(presign(house, session_id=SESSION), ssl=house.trust) as first:
        async with connect(presign(house), ssl=house.trust) as second:
            async with connect(presign(house), ssl=house.trust) as third:
                assert (await listen(third))[1] == "LimitExceededException"
            await second.send(audio(b""))
            await listen(second)
        async with connect(presign(house, session_id=SESSION), ssl=house.trust) as again:
            assert (await listen(first))[1] == "ConflictException"
            await again.send(audio(b""))
            assert (await listen(again))[1] == ""


async def test_without_audio_a_stream_times_out(house: House, pcm: bytes) -> None:
    async with connect(presign(house), ssl=house.trust) as socket:
        await speak(socket, pcm[:32_000], end=False)
        began = time.monotonic()
        _, name, text, _ = await listen(socket)
    assert time.monotonic() - began > 0.5
    assert (name, "no new audio was received for 15 seconds" in text) == ("BadRequestException", True)


@pytest.mark.parametrize(
    ("message", "text"),
    [("text", UNEXPECTED_FRAME), (b"bytes", "Could not decode"), (audio(bytes(32_002)), "too big")],
)
async def test_what_is_no_audio_ends_a_stream(house: House, message: str | bytes, text: str) -> None:
    async with connect(presign(house), ssl=house.trust) as socket:
        await socket.send(message)
        _, name, told, _ = await listen(socket)
    assert (name, text in told) == ("BadRequestException", True)


async def test_a_message_may_come_in_several_frames(house: House) -> None:
    whole = audio(bytes(3200))
    async with connect(presign(house, session_id=SESSION), ssl=house.trust) as socket:
        await socket.send([whole[:100], whole[100:1000], whole[1000:]])
        await socket.send(audio(b""))
        assert (await listen(socket))[1] == ""
    assert house.service.ledger.sessions(SESSION)[0]["samples"] == 1600


@pytest.mark.parametrize("name", [kind for kind in Kind if kind in list(Kind)[:5]])
async def test_each_exception_within_a_stream(house: House, pcm: bytes, name: Kind) -> None:
    house.service.faults.arm(Fault(FaultKind.EXCEPTION, exception=name, after_seconds=3))
    assert (await run(house, pcm))[1:] == (name, Fault(FaultKind.REFUSE, exception=name).error.message, 1000)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (FaultKind.DROP, None),
        (FaultKind.TCP_RST, None),
        (FaultKind.RST_STREAM, None),
        (FaultKind.GOAWAY, 1001),
        (FaultKind.CLOSE, 1000),
    ],
)
async def test_each_way_to_lose_a_stream(house: House, pcm: bytes, kind: FaultKind, code: int | None) -> None:
    house.service.faults.arm(Fault(kind, after_seconds=5))
    finals, name, _, found = await run(house, pcm)
    assert (len(finals) < 3, name, found) == (True, "", code)


@pytest.mark.parametrize("kind", [FaultKind.DROP_BEFORE_HEADERS, FaultKind.HANG])
async def test_an_upgrade_that_is_not_answered(house: House, kind: FaultKind) -> None:
    house.service.faults.arm(Fault(kind))
    with pytest.raises(TimeoutError if kind is FaultKind.HANG else (InvalidHandshake, OSError, EOFError)):
        await connect(presign(house), ssl=house.trust, open_timeout=1)


@pytest.mark.parametrize("kind", [FaultKind.THROTTLE, FaultKind.REFUSE])
async def test_a_refused_request(house: House, kind: FaultKind) -> None:
    house.service.faults.arm(Fault(kind, exception=Kind.SERVICE_UNAVAILABLE))
    expected = "LimitExceededException" if kind is FaultKind.THROTTLE else "ServiceUnavailableException"
    assert (await run(house, b""))[1] == expected


async def test_silence_answers_nothing(house: House, pcm: bytes) -> None:
    house.service.faults.arm(Fault(FaultKind.SILENCE))
    async with connect(presign(house), ssl=house.trust) as socket:
        await speak(socket, pcm)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 1)


async def test_a_stall_holds_up_the_client(house: House) -> None:
    house.service.faults.arm(Fault(FaultKind.STALL, seconds=1.5))
    async with connect(presign(house, session_id=SESSION), ssl=house.trust) as socket:
        began, longest = time.monotonic(), 0.0
        for _ in range(600):
            before = time.monotonic()
            await socket.send(audio(bytes(32_000)))
            longest = max(longest, time.monotonic() - before)
        assert longest > 0.3
        assert time.monotonic() - began > 1.4
        await socket.send(audio(b""))
        assert (await listen(socket))[3] == 1000
    assert house.service.ledger.sessions(SESSION)[0]["samples"] == 600 * 16_000


async def test_a_slow_stream_says_the_same_later(house: House, pcm: bytes) -> None:
    undisturbed = await run(house, pcm)
    house.service.faults.arm(Fault(FaultKind.SLOW, factor=5, bytes_per_second=320_000))
    began = time.monotonic()
    assert await run(house, pcm) == undisturbed
    assert time.monotonic() - began > 0.9
