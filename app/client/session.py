"""A speaker that brings a session to its end, whatever happens to connections in between."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable
from random import Random
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from app.client.connection import Connection, Pace, Sent
from app.client.errors import ClientError, GaveUp, ProtocolError, Refused, StreamEnded, Unreachable
from app.client.outbox import Outbox
from app.client.rest import RestClient, refusal
from app.client.speech import Speech
from app.protocol.close import RETRYABLE, CloseCode
from app.protocol.messages import PROTOCOL, ClientMessage, Completed, Flush, ServerMessage
from app.protocol.rest import SessionCreated

OPEN_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 1.0
BACKOFF_FIRST: Final = 0.1
BACKOFF_LAST: Final = 5.0
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
CONTROLS_MAX: Final = 64


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to stream.

    Attributes:
        frame_bytes: size of a binary frame; even, 2 to 65 536.
        realtime: no faster than it was spoken; otherwise as fast as the window allows.
        give_up_seconds: how long to go on reconnecting without the session getting any further.
        silence_seconds: a socket that says nothing for so long is taken for dead.
        drop_at: positions at which the connection is cut off, once each and in this order.
        origin: ``ws://host:port`` to connect to in place of the one that the server named.
    """

    frame_bytes: int = 3_200
    realtime: bool = False
    give_up_seconds: float = 120.0
    silence_seconds: float = 3.0
    drop_at: tuple[int, ...] = ()
    origin: str | None = None


class SpeakerClient:
    """Speaks one session. ``run`` is run once; ``stop``, ``flush`` and ``drop`` are for the same event loop."""

    def __init__(
        self,
        rest: RestClient,
        created: SessionCreated,
        source: Iterable[bytes],
        options: StreamOptions,
        on_event: Callable[[ServerMessage], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Random,
    ) -> None:
        """Speak ``source`` (16 kHz PCM in pieces of any size) in the session ``created``.

        ``on_event`` hears every message of the server, a final once, in order. Neither it nor ``source`` may wait
        or raise.

        Raises:
            ValueError: frames of the asked size are not allowed.
        """
        self.sent: Final = Sent()
        self.outbox: Final = Outbox(source, options.frame_bytes)
        self._rest = rest
        self._session_id = created.session_id
        self._options = options
        self._clock = clock
        self._random = random
        self._url = _at_origin(created.stream_url, options.origin)
        self._tls = ssl.create_default_context() if self._url.startswith("wss:") else None
        self._speech = Speech(created.session_id, self.outbox, on_event)
        self._pace = Pace(clock, realtime=options.realtime)
        self._ticket: str | None = created.ticket
        self._ticket_is_new = False
        self._controls: deque[ClientMessage] = deque(maxlen=CONTROLS_MAX)
        self._drop_at = deque(options.drop_at)
        self._connection: Connection | None = None

    async def run(self) -> Completed:
        """Send everything, stop, and wait for the end; reconnect as often as it takes.

        Cancelling it closes the socket and leaves the session resumable.

        Raises:
            Refused, StreamEnded: the server will have no more of it.
            GaveUp: nothing went on for ``give_up_seconds``.
            ProtocolError, BadAudio: see there.
        """
        attempts, progress, since = 0, -1, self._clock()
        while True:
            failure = await self._attempt()
            if self._speech.completed is not None:
                return self._speech.completed
            if not _retryable(failure):
                raise failure
            if self._speech.progress != progress:
                attempts, progress, since = 0, self._speech.progress, self._clock()
            elif self._clock() - since > self._options.give_up_seconds:
                raise GaveUp(self._options.give_up_seconds, str(failure)) from failure
            await asyncio.sleep(self._delay(attempts, failure))
            attempts += 1

    def stop(self) -> None:
        """End the session with what was sent so far, as if the audio ended there."""
        self.outbox.cut()
        self._wake()

    def flush(self) -> None:
        """Ask for finals of what was said so far."""
        self._controls.append(Flush())
        self._wake()

    def drop(self) -> None:
        """Cut the present connection off, if there is one; the client then reconnects."""
        if self._connection is not None:
            self._connection.drop()

    async def _attempt(self) -> ClientError:
        """One connection, from its ticket to its end; returns why it ended."""
        self._speech.connected()
        try:
            socket = await self._open(await self._next_ticket())
            try:
                return await self._converse(socket)
            finally:
                self._connection = None
                await socket.close()
        except ClientError as failure:
            return failure

    async def _converse(self, socket: ClientConnection) -> ClientError:
        if socket.subprotocol != PROTOCOL:
            return ProtocolError(f"the server does not speak {PROTOCOL}")
        self._connection = Connection(
            socket,
            self._speech,
            pace=self._pace,
            sent=self.sent,
            controls=self._controls,
            drop_at=self._drop_at,
            clock=self._clock,
            silence_seconds=self._options.silence_seconds,
        )
        self.sent.connections += 1
        await self._connection.run()
        close_code = int(socket.close_code or CloseCode.ABNORMAL)
        self.sent.close_codes.append(close_code)
        said = self._speech.error
        return StreamEnded(close_code, said.code if said else "closed", said.message if said else "")

    async def _open(self, ticket: str) -> ClientConnection:
        try:
            return await self._connect(ticket)
        except InvalidStatus as answer:
            raise self._refused(answer) from answer
        except InvalidURI as failure:
            raise ProtocolError("the server named a stream URL that is none") from failure
        except (OSError, InvalidHandshake) as failure:
            raise Unreachable(f"the stream cannot be opened ({type(failure).__name__})") from failure

    async def _connect(self, ticket: str) -> ClientConnection:
        return await connect(
            f"{self._url}?after={self._speech.captions.last_seq}",
            subprotocols=[Subprotocol(PROTOCOL), Subprotocol(f"ticket.{ticket}")],
            compression=None,
            max_size=MESSAGE_BYTES_MAX,
            open_timeout=OPEN_SECONDS,
            close_timeout=CLOSE_SECONDS,
            ping_interval=None,
            proxy=None,
            ssl=self._tls,
        )

    async def _next_ticket(self) -> str:
        # The first ticket works once: whether it was used up when an attempt failed cannot be known.
        known = self._speech.resume_ticket or self._ticket
        self._ticket, self._ticket_is_new = None, known is None
        return known or (await self._rest.speaker_ticket(self._session_id)).ticket

    def _refused(self, answer: InvalidStatus) -> ClientError:
        response = answer.response
        self.sent.refusals.append(response.status_code)
        refused = refusal(
            response.status_code, bytes(response.body or b""), response.headers.get("Retry-After")
        )
        if refused.status == 401 and not self._ticket_is_new:
            self._speech.resume_ticket = None
            return Unreachable("the ticket is no longer good")
        return refused

    def _delay(self, attempts: int, failure: ClientError) -> float:
        """Seconds until the next attempt: at least half of an exponential backoff, and no sooner than was asked for."""
        backoff = min(BACKOFF_LAST, BACKOFF_FIRST * 2.0 ** min(attempts, 10)) * self._random.uniform(0.5, 1.0)
        asked = failure.retry_after if isinstance(failure, Refused) else None
        if self._speech.reconnect_in_ms is not None:
            asked = self._speech.reconnect_in_ms / 1000
        return backoff + (asked or 0.0)

    def _wake(self) -> None:
        if self._connection is not None:
            self._connection.wake()


def _retryable(failure: ClientError) -> bool:
    match failure:
        case Refused():
            return failure.retryable
        case StreamEnded():
            return failure.close_code in RETRYABLE
        case _:
            return isinstance(failure, Unreachable)


def _at_origin(url: str, origin: str | None) -> str:
    if origin is None:
        return url
    chosen = urlsplit(origin)
    return urlunsplit(urlsplit(url)._replace(scheme=chosen.scheme, netloc=chosen.netloc))
