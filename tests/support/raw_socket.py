"""The bare wire, for tests that break its rules: upgrades and frames of any kind, and what the contract asks of the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

PROTOCOL: Final = "kikitori.v1"
RETRYABLE: Final = frozenset({1001, 1006, 1011, 1012, 4408, 4413, 4500, 4503})
"""The close codes after which the contract lets a client come back by itself."""

ANSWER_SECONDS: Final = 15.0
POLL_SECONDS: Final = 0.05
FRAME_BYTES: Final = 32_000

Message = dict[str, Any]
T = TypeVar("T")


class RawSocket:
    """A speaker's socket after its upgrade. Nothing is read but by its methods; ``messages`` keeps all that they read."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.messages: list[Message] = []
        self.position = 0
        self._limit = 0

    async def send(self, *frames: bytes | str) -> None:
        """Send frames as they are, whatever the window says."""
        for frame in frames:
            await self.socket.send(frame)

    async def say(self, kind: str, **fields: object) -> None:
        """Send a message."""
        await self.send(json.dumps({"type": kind, **fields}))

    async def speak(self, pcm: bytes, frame_bytes: int = FRAME_BYTES) -> None:
        """Send audio as a good client does: from where it is, no further than the window."""
        for start in range(0, len(pcm), frame_bytes):
            frame = pcm[start : start + frame_bytes]
            while self.position + len(frame) // 2 > self._limit:
                await self.until("ack")
            await self.send(frame)
            self.position += len(frame) // 2

    async def until(self, kind: str) -> Message:
        """Read up to the next message of that kind.

        Raises:
            ConnectionClosed: the socket was closed first.
            TimeoutError: it does not come.
        """
        async with asyncio.timeout(ANSWER_SECONDS):
            while (message := await self._next())["type"] != kind:
                pass
        return message

    async def heard(self) -> None:
        """Wait until the server has taken everything that was sent."""
        await self.say("ping", id="heard")
        await self.until("pong")

    async def until_durable(self, position: int) -> None:
        """Read up to an ack that calls everything before ``position`` durable."""
        while (await self.until("ack"))["durable"] < position:
            pass

    async def closed(self) -> int:
        """Read to the end. The close code, before which the server must have said what the contract asks for."""
        async with asyncio.timeout(ANSWER_SECONDS):
            with suppress(ConnectionClosed):
                while True:
                    await self._next()
        code = self.socket.close_code or 1006
        if code >= 4000:
            error = self.messages[-1]
            assert error.keys() == {"type", "code", "message", "retryable"}, error
            assert error["type"] == "error"
            assert error["code"]
            assert error["message"]
            assert error["retryable"] is (code in RETRYABLE)
        return code

    async def refused(self, close_code: int, word: str) -> None:
        """Read to the end, which must be a close with ``close_code`` after an ``error`` whose code is ``word``."""
        assert (await self.closed(), self.messages[-1].get("code")) == (close_code, word)

    async def finish(self) -> Message:
        """Stop where the audio ends; the ``completed`` that was answered, followed by an orderly close."""
        await self.say("stop", position=self.position)
        completed = await self.until("completed")
        assert await self.closed() == 1000
        return completed

    def drop(self) -> None:
        """Cut the connection off without a close frame."""
        self.socket.transport.abort()

    async def _next(self) -> Message:
        text = await self.socket.recv()
        assert isinstance(text, str), "the server speaks in text"
        message: Message = json.loads(text)
        self.messages.append(message)
        if message["type"] == "ready":
            self.position, self._limit = message["position"], message["position"] + message["window"]
        elif message["type"] == "ack":
            self._limit = max(self._limit, message["received"] + message["window"])
        return message


@asynccontextmanager
async def upgraded(
    url: str,
    ticket: str | None = None,
    *,
    offers: tuple[str, ...] | None = None,
    bearer: str | None = None,
    headers: Mapping[str, str] | None = None,
    origin: str | None = None,
    host: str | None = None,
) -> AsyncIterator[RawSocket]:
    """An open socket, of which nothing has been read yet; closed orderly on leaving, unless it is closed already.

    Args:
        url: of the stream, with its query.
        offers: the subprotocols in place of those that go with ``ticket``.
        bearer: a token for the ``Authorization`` header.
        host: the ``Host`` header, in place of that of ``url``.

    Raises:
        InvalidStatus: the upgrade was refused; ``refusal`` gives the answer.
    """
    if offers is None:
        offers = (PROTOCOL,) if ticket is None else (PROTOCOL, f"ticket.{ticket}")
    server = urlsplit(url)
    authorization = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    async with connect(
        url if host is None else urlunsplit(server._replace(netloc=host)),
        host=server.hostname,
        port=server.port,
        subprotocols=[Subprotocol(offer) for offer in offers] or None,
        additional_headers={**authorization, **(headers or {})},
        origin=None if origin is None else Origin(origin),
        compression=None,
        max_queue=None,
        ping_interval=None,
        open_timeout=ANSWER_SECONDS,
        close_timeout=2.0,
        proxy=None,
    ) as socket:
        yield RawSocket(socket)


@asynccontextmanager
async def speaking(url: str, ticket: str | None = None, **options: Any) -> AsyncIterator[RawSocket]:
    """The same, once the server has said ``ready``, which must be the first message: ``messages[0]``."""
    async with upgraded(url, ticket, **options) as socket:
        await socket.until("ready")
        assert len(socket.messages) == 1
        yield socket


async def refusal(url: str, ticket: str | None = None, **options: Any) -> httpx.Response:
    """The answer to an upgrade that must be refused."""
    try:
        async with upgraded(url, ticket, **options):
            raise AssertionError("the upgrade was granted")
    except InvalidStatus as refused:
        answer = refused.response
        headers = list(answer.headers.raw_items())
        return httpx.Response(answer.status_code, headers=headers, content=bytes(answer.body or b""))


def problem_of(answer: httpx.Response, status: int, code: str) -> Message:
    """The problem body of a refusal, which must have ``status``, ``code`` and everything that the contract asks for."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: Message = answer.json()
    assert problem.keys() == {"type", "title", "status", "detail", "code", "requestId"}
    assert (problem["status"], problem["code"]) == (status, code), problem
    assert problem["type"] == "about:blank" or ":" in problem["type"]
    assert problem["title"]
    assert problem["detail"]
    assert problem["requestId"] == answer.headers["x-request-id"]
    assert status not in {429, 503} or int(answer.headers["retry-after"]) > 0
    assert status != 401 or answer.headers["www-authenticate"].startswith("Bearer")
    assert status != 405 or answer.headers["allow"]
    return problem


async def eventually(
    ask: Callable[[], Awaitable[T]], holds: Callable[[T], bool], seconds: float = ANSWER_SECONDS
) -> T:
    """Ask again and again until the answer is as it should be.

    Raises:
        AssertionError: it never is; the text has the last answer.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    while not holds(answer := await ask()):
        assert asyncio.get_running_loop().time() < deadline, answer
        await asyncio.sleep(POLL_SECONDS)
    return answer
