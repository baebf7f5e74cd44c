"""One connection of a speaker: what is due is sent, what comes is heard, a dead socket is noticed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from app.client.errors import BadAudio, ClientError, ProtocolError
from app.client.speech import Speech
from app.protocol.messages import ClientMessage, Ping, Stop, decode_server, encode
from audio.pcm import SAMPLE_RATE

READY_SECONDS: Final = 15.0
"""How long a server may take from the upgrade to ``ready``: it may have to take the session over."""

PING_SECONDS: Final = 1.0
STOP_SECONDS: Final = 2.0
GRACE_SECONDS: Final = 0.1
"""So that a loop which was itself held up reads what has come before it calls a socket dead."""

_FRAMES_IN_A_ROW: Final = 32


class Pace:
    """How far a speaker in real time may be: audio exists once it has been spoken. ``None`` where there is no such limit."""

    def __init__(self, clock: Callable[[], float], *, realtime: bool) -> None:
        self._clock = clock
        self._realtime = realtime
        self._began: float | None = None

    def begin(self, position: int) -> None:
        """At the first ``ready``, ``position`` is now. Later ones change nothing: meanwhile the speaker spoke on."""
        if self._began is None:
            self._began = self._clock() - position / SAMPLE_RATE

    def reached(self) -> int | None:
        """The position that has been spoken up to now."""
        if not self._realtime or self._began is None:
            return None
        return int((self._clock() - self._began) * SAMPLE_RATE)


class Sent(msgspec.Struct):
    """What a client sent, over all its connections. ``close_codes`` and ``refusals`` hold the latest thousand."""

    connections: int = 0
    frames: int = 0
    samples: int = 0
    samples_repeated: int = 0
    close_codes: deque[int] = msgspec.field(default_factory=lambda: deque(maxlen=1_000))
    refusals: deque[int] = msgspec.field(default_factory=lambda: deque(maxlen=1_000))


class Connection:
    """``run`` lives as long as the socket, and is run once. Cancelling it leaves the socket open."""

    def __init__(
        self,
        socket: ClientConnection,
        speech: Speech,
        *,
        pace: Pace,
        sent: Sent,
        controls: deque[ClientMessage],
        drop_at: deque[int],
        clock: Callable[[], float],
        silence_seconds: float,
    ) -> None:
        """``controls`` are sent as they appear; at each position of ``drop_at`` the connection is cut off."""
        self._socket = socket
        self._speech = speech
        self._pace = pace
        self._sent = sent
        self._controls = controls
        self._drop_at = drop_at
        self._clock = clock
        self._silence_seconds = silence_seconds
        self._heard_at = clock()
        self._spoke_at = self._heard_at
        self._stopped_at: float | None = None
        self._pings = 0
        self._wake = asyncio.Event()
        self._broken: ClientError | None = None

    def wake(self) -> None:
        """There is something new to send."""
        self._wake.set()

    def drop(self) -> None:
        """Cut the connection off, without a close frame and with whatever is under way."""
        self._socket.transport.abort()

    async def run(self) -> None:
        """Speak and listen until the socket is closed, by whichever side.

        Raises:
            ProtocolError, BadAudio: see there.
        """
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(self._speak()), group.create_task(self._watch())]
            await self._listen()
            for helper in helpers:
                helper.cancel()
        if self._broken is not None:
            raise self._broken

    async def _listen(self) -> None:
        with suppress(ConnectionClosed):
            async for text in self._socket:
                self._heard_at = self._clock()
                try:
                    self._hear(text)
                except ProtocolError as error:
                    self._broken = error
                    return

    def _hear(self, text: str | bytes) -> None:
        try:
            message = decode_server(text)
        except msgspec.DecodeError as failure:
            raise ProtocolError("the server sent a message that this client does not know") from failure
        if message is None:
            return
        was_ready = self._speech.ready
        self._speech.hear(message)
        if self._speech.ready and not was_ready:
            self._pace.begin(self._speech.outbox.position)
        self._wake.set()

    async def _watch(self) -> None:
        while True:
            allowed = self._silence_seconds if self._speech.ready else READY_SECONDS
            heard_at = self._heard_at
            left = heard_at + allowed - self._clock()
            await asyncio.sleep(max(left, GRACE_SECONDS))
            if left <= 0 and self._heard_at == heard_at:
                self.drop()
                return

    async def _speak(self) -> None:
        try:
            while True:
                self._wake.clear()
                wait = await self._send_what_is_due() if self._speech.ready else READY_SECONDS
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
        except ConnectionClosed:
            pass  # The listener hears of it too.
        except BadAudio as error:
            self._broken = error
            self.drop()

    async def _send_what_is_due(self) -> float:
        """Returns for how many seconds nothing more is due unless something changes."""
        while self._controls:
            await self._say(self._controls.popleft())
        await self._send_audio()
        now = self._clock()
        outbox = self._speech.outbox
        if outbox.finished and (self._stopped_at is None or now - self._stopped_at >= STOP_SECONDS):
            self._stopped_at = now
            await self._say(Stop(outbox.position))
        if now - self._spoke_at >= PING_SECONDS:
            self._pings += 1
            await self._say(Ping(self._pings))
        return self._seconds_to_next_frame()

    def _seconds_to_next_frame(self) -> float:
        reached = self._pace.reached()
        missing = self._speech.outbox.position + self._speech.outbox.frame_samples - (reached or 0)
        # What the clock does not hold back waits for an ack, which wakes the speaker.
        return PING_SECONDS if reached is None or missing <= 0 else min(PING_SECONDS, missing / SAMPLE_RATE)

    async def _send_audio(self) -> None:
        outbox, frames = self._speech.outbox, 0
        while True:
            new_from = outbox.sent_once
            frame = outbox.take(self._pace.reached())
            if frame is None:
                return
            await self._socket.send(frame)
            self._spoke_at = self._clock()
            self._record(len(frame) // 2, outbox.sent_once - new_from)
            if self._drop_at and outbox.position >= self._drop_at[0]:
                self._drop_at.popleft()
                self.drop()
                await self._socket.wait_closed()
            frames += 1
            if frames % _FRAMES_IN_A_ROW == 0 or self._controls:
                # A socket that takes everything at once never makes the sender wait, and others must live.
                await asyncio.sleep(0)

    def _record(self, samples: int, new: int) -> None:
        self._sent.frames += 1
        self._sent.samples += samples
        self._sent.samples_repeated += samples - new

    async def _say(self, message: ClientMessage) -> None:
        await self._socket.send(encode(message))
        self._spoke_at = self._clock()
