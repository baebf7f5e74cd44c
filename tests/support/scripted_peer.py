"""A server that keeps the speaker's contract as far as a client can tell, and misbehaves where a test tells it to."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

import httpx
import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from app.client.rest import RestClient
from app.protocol.messages import (
    Ack,
    Completed,
    FinalMessage,
    Ping,
    Pong,
    Ready,
    ServerMessage,
    Stop,
    decode_client,
    encode,
)
from app.protocol.rest import SessionCreated, TicketIssued

SESSION = "01890a5d-ac96-774b-bcce-b302099a8057"
FINAL_SAMPLES = 1_000

Trouble = Callable[[ServerConnection], Awaitable[None]]


class ScriptedPeer:
    """One session. ``pcm`` is what arrived; ``durable`` follows ``lag`` samples behind; a final each 1 000 samples."""

    def __init__(self, window: int = 20_000, lag: int = 2_000) -> None:
        self.pcm = bytearray()
        self.durable = 0
        self.window = window
        self.lag = lag
        self.connections = 0
        self.tickets: list[str] = []
        self.afters: list[int] = []
        self.stops: list[int | None] = []
        self.frames: list[int] = []
        self.completes_after_stops = 1
        self.silent = False
        self.refusals: list[tuple[int, dict[str, str]]] = []
        """Answered to the next upgrades, in order."""

        self.troubles: dict[int, Trouble] = {}
        """Done once, when that many samples have arrived."""

        self.rest_tickets = 0

    @property
    def received(self) -> int:
        return len(self.pcm) // 2

    async def refuse(self, connection: ServerConnection, request: Request) -> Response | None:
        if not self.refusals:
            return None
        status, headers = self.refusals.pop(0)
        response = connection.respond(HTTPStatus(status), "")
        response.headers.update(headers)
        return response

    async def serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        offered = socket.request.headers["Sec-WebSocket-Protocol"].split(", ")
        self.connections += 1
        self.tickets.append(offered[1].removeprefix("ticket."))
        after = int(socket.request.path.partition("after=")[2])
        self.afters.append(after)
        del self.pcm[2 * max(self.durable, self.received - self.lag // 2) :]
        ready = Ready(SESSION, self.received, self.window, 1, f"resume-{self.connections}", {}, {})
        await self.say(socket, ready)
        for seq in range(after + 1, self.received // FINAL_SAMPLES + 1):
            await self.say(socket, final(seq))
        async for message in socket:
            if await self.hear(socket, message):
                return

    async def hear(self, socket: ServerConnection, message: str | bytes) -> bool:
        if isinstance(message, bytes):
            await self._audio(socket, message)
            return False
        match decode_client(message):
            case Ping(id=name):
                await self.say(socket, Pong(name))
            case Stop(position=position):
                self.stops.append(position)
                assert position == self.received
                if len(self.stops) >= self.completes_after_stops:
                    digest = hashlib.sha256(self.pcm).hexdigest()
                    done = Completed(SESSION, self.received, self.received // FINAL_SAMPLES, {}, digest)
                    await self.say(socket, done)
                    return True
            case _:
                pass
        return False

    async def _audio(self, socket: ServerConnection, frame: bytes) -> None:
        before = self.received
        self.frames.append(len(frame))
        self.pcm += frame
        self.durable = max(self.durable, self.received - self.lag)
        await self.say(socket, Ack(self.received, self.durable, self.window))
        for seq in range(before // FINAL_SAMPLES + 1, self.received // FINAL_SAMPLES + 1):
            await self.say(socket, final(seq))
        for position in [position for position in self.troubles if position <= self.received]:
            await self.troubles.pop(position)(socket)

    async def say(self, socket: ServerConnection, message: ServerMessage) -> None:
        if not self.silent:
            await socket.send(encode(message))

    def rest(self) -> RestClient:
        """A client whose REST calls this peer answers."""

        async def answer(request: httpx.Request) -> httpx.Response:
            self.rest_tickets += 1
            issued = TicketIssued(f"rest-{self.rest_tickets}", "", "")
            return httpx.Response(201, content=msgspec.json.encode(issued))

        return RestClient("http://peer", "token", transport=httpx.MockTransport(answer))


def final(seq: int) -> FinalMessage:
    start = (seq - 1) * FINAL_SAMPLES
    return FinalMessage(seq, f"r{seq}", start, start + FINAL_SAMPLES, f"said {seq}", (), "en-US")


@asynccontextmanager
async def listening(peer: ScriptedPeer) -> AsyncIterator[SessionCreated]:
    """The peer on a free port of the loopback; gives what ``POST /v1/sessions`` would."""

    async def handle(socket: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await peer.serve(socket)

    server: Server
    async with serve(
        handle,
        "127.0.0.1",
        0,
        subprotocols=[Subprotocol("kikitori.v1")],
        process_request=peer.refuse,
        compression=None,
        ping_interval=None,
        close_timeout=0.2,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        url = f"ws://127.0.0.1:{port}/v1/sessions/{SESSION}/stream"
        yield SessionCreated(SESSION, "north", "created", url, "first", "", "kikitori.v1")


async def hang(socket: ServerConnection) -> None:
    """A trouble: nothing is answered any more, though the socket stays open."""
    await socket.wait_closed()
