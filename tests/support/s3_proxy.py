"""A proxy between a store and an S3 server that does to chosen requests what networks and busy services do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

HEAD_BYTES_MAX = 65_536


@dataclass(frozen=True)
class Fault:
    """What happens to one request.

    Attributes:
        status: answered with this instead of being passed on; with ``code`` as S3's error, and ``headers``.
        delay: seconds before it is passed on.
        gate: not passed on before this is set.
        drop: ``before`` it is passed on, or ``after`` it was carried out, the connection is cut.
        answer_gate: carried out, and not answered before this is set.
        cut: the connection is cut after so many bytes of the answer's body.
        damage: replaced in the request's body.
        rewrite: replaced in the answer.
    """

    status: int = 0
    code: str = ""
    headers: tuple[str, ...] = ()
    delay: float = 0.0
    gate: asyncio.Event | None = None
    drop: str = ""
    answer_gate: asyncio.Event | None = None
    cut: int | None = None
    damage: tuple[bytes, bytes] | None = None
    rewrite: tuple[bytes, bytes] | None = None


@dataclass(frozen=True)
class Request:
    """What came in. ``headers`` has lower-case names."""

    method: str
    target: str
    headers: dict[str, str]
    head: bytes
    body: bytes

    def __str__(self) -> str:
        path, _, query = self.target.partition("?")
        return f"{self.method} {path.rpartition('/')[2]}{'?' + query if query else ''}"


@dataclass
class S3Proxy:
    """Set ``rule`` to choose faults; ``requests`` has all that came, in order, and ``came`` is set with each."""

    upstream: str
    url: str = ""
    rule: Callable[[Request], Fault | None] = lambda _: None
    requests: list[Request] = field(default_factory=list)
    open_now: int = 0
    open_most: int = 0
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def seen(self, method: str, text: str = "") -> list[Request]:
        return [asked for asked in self.requests if asked.method == method and text in asked.target]

    def fail(self, fault: Fault, method: str, text: str = "", times: int = 1) -> None:
        """The next ``times`` requests of this kind meet ``fault``."""
        left = times

        def rule(request: Request) -> Fault | None:
            nonlocal left
            if left <= 0 or request.method != method or text not in request.target:
                return None
            left -= 1
            return fault

        self.rule = rule

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request after the other."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = await _request(reader, writer)
                self.requests.append(request)
                self.came.set()
                self.open_now += 1
                self.open_most = max(self.open_most, self.open_now)
                try:
                    answer = await self._answer(request, self.rule(request) or Fault())
                finally:
                    self.open_now -= 1
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
                if b"connection: close" in answer.partition(b"\r\n\r\n")[0].lower():
                    break
        writer.close()

    async def _answer(self, request: Request, fault: Fault) -> bytes | None:
        """None where the connection is cut without one."""
        await asyncio.sleep(fault.delay)
        if fault.gate is not None:
            await fault.gate.wait()
        if fault.status:
            return _error(request, fault)
        if fault.drop == "before":
            return None
        answer = await self._pass_on(request, fault)
        if fault.answer_gate is not None:
            await fault.answer_gate.wait()
        if fault.drop == "after":
            return None
        if fault.rewrite is not None:
            answer = answer.replace(*fault.rewrite)
        if fault.cut is not None:
            answer = answer[: answer.index(b"\r\n\r\n") + 4 + fault.cut]
        return answer

    async def _pass_on(self, request: Request, fault: Fault) -> bytes:
        where = urlsplit(self.upstream)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        try:
            # One request a connection, so that its end is the answer's.
            head = request.head[:-2] + b"Connection: close\r\n\r\n"
            writer.write(head + (request.body.replace(*fault.damage) if fault.damage else request.body))
            with suppress(ConnectionError):  # It may answer before it has read all.
                await writer.drain()
            return await reader.read()
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def proxied(upstream: str) -> AsyncIterator[S3Proxy]:
    """A proxy on a free loopback port; all its connections end with it."""
    proxy, serving = S3Proxy(upstream), set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            with suppress(asyncio.CancelledError):
                await proxy.serve(reader, writer)
        finally:
            writer.transport.abort()
            serving.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=HEAD_BYTES_MAX)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await server.wait_closed()


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw[:-4].split(b"\r\n")
    kept, headers = [first], dict[str, str]()
    for line in lines:
        name, _, value = line.partition(b":")
        headers[name.decode().lower()] = value.decode().strip()
        if name.lower() not in (b"connection", b"expect"):
            kept.append(line)
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    method, target, _ = first.decode().split(" ")
    return Request(method, target, headers, b"\r\n".join(kept) + b"\r\n\r\n", body)


def _error(request: Request, fault: Fault) -> bytes:
    text = f"<Error><Code>{fault.code}</Code><Message>none</Message></Error>" if fault.code else ""
    head = [f"HTTP/1.1 {fault.status} Error", "Content-Type: application/xml", *fault.headers]
    head += [f"Content-Length: {len(text)}", "", text if request.method != "HEAD" else ""]
    return "\r\n".join(head).encode()
