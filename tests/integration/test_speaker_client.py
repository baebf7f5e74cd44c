"""The speaker's client against a peer on the loopback that drops, refuses, hangs and lies."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from websockets.asyncio.server import ServerConnection

from app.client.errors import BadAudio, GaveUp, ProtocolError, Refused, StreamEnded
from app.client.outbox import chunks
from app.client.session import SpeakerClient, StreamOptions
from app.protocol.messages import (
    Ack,
    Completed,
    ErrorMessage,
    FinalMessage,
    Notice,
    Ready,
    ServerMessage,
    encode,
)
from app.protocol.rest import SessionCreated
from tests.support.scripted_peer import FINAL_SAMPLES, SESSION, ScriptedPeer, hang, listening

PCM = Random(5).randbytes(100_000)  # noqa: S311  # sound, not a secret


class Told:
    """A client, and what it told."""

    def __init__(
        self, peer: ScriptedPeer, created: SessionCreated, options: StreamOptions, pcm: bytes = PCM
    ) -> None:
        self.events: list[ServerMessage] = []
        self.client = SpeakerClient(
            peer.rest(),
            created,
            chunks(pcm, 7_000),
            options,
            self.events.append,
            random=Random(1),  # noqa: S311  # jitter
        )

    @property
    def finals(self) -> list[int]:
        return [event.seq for event in self.events if isinstance(event, FinalMessage)]


async def stream(peer: ScriptedPeer, options: StreamOptions | None = None, pcm: bytes = PCM) -> Told:
    async with listening(peer) as created:
        told = Told(peer, created, options or StreamOptions(), pcm)
        completed = await told.client.run()
    assert completed.samples == peer.received
    assert completed.audio_sha256 == told.client.outbox.sha256() == hashlib.sha256(pcm).hexdigest()
    assert bytes(peer.pcm) == pcm
    assert told.finals == list(range(1, len(pcm) // 2 // FINAL_SAMPLES + 1))
    return told


def closing(code: int, error: ErrorMessage | None = None) -> Callable[[ServerConnection], Awaitable[None]]:
    async def close(socket: ServerConnection) -> None:
        if error is not None:
            await socket.send(encode(error))
        await socket.close(code)

    return close


async def cut(socket: ServerConnection) -> None:
    socket.transport.abort()


@pytest.mark.parametrize("frame_bytes", [2, 320, 3_200, 65_536])
async def test_every_sample_arrives_whatever_the_frame(frame_bytes: int) -> None:
    peer = ScriptedPeer()
    pcm = PCM[:8_000] if frame_bytes == 2 else PCM
    told = await stream(peer, StreamOptions(frame_bytes=frame_bytes), pcm)
    assert peer.connections == 1
    assert peer.tickets == ["first"]
    assert max(peer.frames) <= frame_bytes
    assert told.client.sent.frames == len(peer.frames)
    assert told.client.sent.samples_repeated == 0
    assert list(told.client.sent.close_codes) == [1000]


async def test_a_connection_that_drops_at_chosen_positions_costs_nothing() -> None:
    peer = ScriptedPeer()
    told = await stream(peer, StreamOptions(frame_bytes=800, drop_at=(0, 5_000, 5_001, 17_300, 49_999)))
    assert peer.connections == 6
    assert peer.tickets == ["first", *(f"resume-{number}" for number in range(1, 6))]
    assert peer.afters == sorted(peer.afters)
    assert list(told.client.sent.close_codes) == [1006] * 5 + [1000]
    assert told.client.sent.samples == len(PCM) // 2 + told.client.sent.samples_repeated


@pytest.mark.parametrize("code", [1001, 1011, 1012, 4408, 4413, 4500, 4503])
async def test_a_close_that_is_retryable_is_resumed(code: int) -> None:
    peer = ScriptedPeer()
    peer.troubles = {9_000: closing(code)}
    told = await stream(peer)
    assert list(told.client.sent.close_codes) == [code, 1000]


async def test_a_connection_that_the_server_loses_is_resumed() -> None:
    peer = ScriptedPeer()
    peer.troubles = {9_000: cut, 20_000: cut}
    await stream(peer)
    assert peer.connections == 3


@pytest.mark.parametrize("code", [1000, 1009, 4400, 4401, 4403, 4409, 4429])
async def test_a_close_for_good_ends_it_with_the_servers_words(code: int) -> None:
    peer = ScriptedPeer()
    peer.troubles = {9_000: closing(code, ErrorMessage("some_code", "some reason", retryable=False))}
    with pytest.raises(StreamEnded, match="some reason") as ended:
        await stream(peer)
    assert (ended.value.close_code, ended.value.code) == (code, "some_code")
    assert peer.connections == 1


async def test_refusals_for_now_are_asked_again_no_sooner_than_told() -> None:
    peer = ScriptedPeer()
    peer.refusals = [(503, {"Retry-After": "1"}), (429, {})]
    started = time.monotonic()
    told = await stream(peer)
    assert time.monotonic() - started >= 1.0
    assert list(told.client.sent.refusals) == [503, 429]
    assert peer.tickets == ["rest-2"]


async def test_a_resume_ticket_that_is_no_longer_good_is_replaced() -> None:
    peer = ScriptedPeer()

    async def forget(socket: ServerConnection) -> None:
        peer.refusals = [(401, {})]
        await cut(socket)

    peer.troubles = {9_000: forget}
    await stream(peer)
    assert peer.tickets == ["first", "rest-1"]


@pytest.mark.parametrize("refusals", [[403], [404], [409], [401, 401]])
async def test_refusals_for_good_end_it(refusals: list[int]) -> None:
    peer = ScriptedPeer()
    peer.refusals = [(status, {}) for status in refusals]
    with pytest.raises(Refused) as refused:
        await stream(peer)
    assert refused.value.status == refusals[-1]


async def test_a_socket_that_says_nothing_is_taken_for_dead() -> None:
    peer = ScriptedPeer()
    peer.troubles = {9_000: hang}
    told = await stream(peer, StreamOptions(silence_seconds=0.5))
    assert list(told.client.sent.close_codes) == [1006, 1000]


async def test_a_closed_window_is_waited_for_with_pings_and_no_reconnect() -> None:
    peer = ScriptedPeer(window=9_600)

    async def close_window(socket: ServerConnection) -> None:
        peer.window = 0

        async def reopen() -> None:
            await asyncio.sleep(1.5)
            peer.window = 20_000
            await peer.say(socket, Ack(peer.received, peer.durable, peer.window))

        peer_tasks.append(asyncio.ensure_future(reopen()))

    peer_tasks: list[asyncio.Future[None]] = []
    peer.troubles = {9_600: close_window}
    await stream(peer, StreamOptions(silence_seconds=1.2))
    assert peer.connections == 1
    await asyncio.gather(*peer_tasks)


async def test_stop_is_repeated_until_completed() -> None:
    peer = ScriptedPeer()
    peer.completes_after_stops = 2
    await stream(peer)
    assert peer.stops == [len(PCM) // 2] * 2


async def test_stop_is_repeated_after_a_reconnect() -> None:
    peer = ScriptedPeer()
    peer.completes_after_stops = 2
    peer.troubles = {len(PCM) // 2: closing(1012)}
    await stream(peer)
    assert peer.connections == 2


async def test_stopping_early_ends_the_session_with_what_was_sent() -> None:
    peer = ScriptedPeer()
    async with listening(peer) as created:
        told = Told(peer, created, StreamOptions(frame_bytes=400))

        async def stop(_: ServerConnection) -> None:
            told.client.stop()

        peer.troubles = {10_000: stop}
        completed = await told.client.run()
    assert 10_000 <= completed.samples < len(PCM) // 2
    assert bytes(peer.pcm) == PCM[: 2 * completed.samples]
    assert completed.audio_sha256 == told.client.outbox.sha256()


async def test_real_time_audio_comes_no_sooner_than_it_was_spoken_even_after_a_drop() -> None:
    peer = ScriptedPeer()
    started = time.monotonic()
    await stream(peer, StreamOptions(frame_bytes=800, realtime=True, drop_at=(4_000,)), PCM[:32_000])
    assert 1.0 <= time.monotonic() - started < 5.0


async def test_without_progress_it_gives_up() -> None:
    peer = ScriptedPeer()
    peer.refusals = [(503, {})] * 1_000
    with pytest.raises(GaveUp, match="503"):
        await stream(peer, StreamOptions(give_up_seconds=0.5))


@pytest.mark.parametrize(
    "lie",
    [Ack(10**9, 0, 0), FinalMessage(77, "x", 0, 1, "", (), "en-US"), Ready(SESSION, 0, 9, 1, "r", {}, {})],
)
async def test_a_broken_contract_ends_it(lie: ServerMessage) -> None:
    peer = ScriptedPeer()

    async def tell(socket: ServerConnection) -> None:
        await peer.say(socket, lie)

    peer.troubles = {9_000: tell}
    with pytest.raises(ProtocolError):
        await stream(peer)
    assert peer.connections == 1


async def test_half_a_sample_is_not_streamed() -> None:
    peer = ScriptedPeer()
    with pytest.raises(BadAudio):
        await stream(peer, pcm=PCM[:9_999])


async def test_cancelling_leaves_a_session_that_can_be_resumed() -> None:
    peer = ScriptedPeer()
    async with listening(peer) as created:
        first = Told(peer, created, StreamOptions(frame_bytes=400))
        run = asyncio.ensure_future(first.client.run())

        async def cancel(_: ServerConnection) -> None:
            run.cancel()

        peer.troubles = {10_000: cancel}
        await asyncio.wait([run])
        assert run.cancelled()
        second = Told(peer, created, StreamOptions())
        completed = await second.client.run()
    assert bytes(peer.pcm) == PCM
    assert completed.audio_sha256 == second.client.outbox.sha256() == hashlib.sha256(PCM).hexdigest()


async def test_events_come_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    peer = ScriptedPeer()

    async def warn(socket: ServerConnection) -> None:
        await peer.say(socket, Notice("engine_waiting", "the engine is busy"))

    peer.troubles = {9_000: warn}
    told = await stream(peer)
    assert isinstance(told.events[0], Ready)
    assert Notice("engine_waiting", "the engine is busy") in told.events
    assert isinstance(told.events[-1], Completed)
    assert "said" not in caplog.text
