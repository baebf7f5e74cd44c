"""``GET /v1/sessions/{id}/stream``: a speaker's WebSocket. Plain ASGI, because every audio frame passes here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from app.auth.principal import Forbidden, Principal
from app.auth.tickets import Ticket
from app.errors import refused
from app.protocol.messages import PROTOCOL, Ack, encode
from app.services import Services
from app.sessions.attaching import Attachment
from app.sessions.errors import SessionNotFound
from app.sessions.link import Closing
from app.telemetry.logs import bound, logger
from app.ws.entry import caller, parameter
from audio.pcm import SAMPLE_BYTES
from tenants.terms import is_session_id

AFTER_MAX: Final = 2**53
_DIGITS: Final = re.compile(r"[0-9]{1,16}")

_log = logger(__name__)


class SpeakerEndpoint:
    """Refuses before the upgrade whatever can be refused, then carries frames until one side ends it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection.

        Raises:
            Whatever ``app.errors`` knows: the upgrade is refused for it.
        """
        await receive()
        services: Services = scope["app"].state.services
        ticket = await _ticket(scope, services)
        after = _after(scope)
        wake = asyncio.Event()
        with bound(clinicId=ticket.clinic_id, sessionId=ticket.session_id or ""):
            attach = partial(services.manager.attach, ticket, after, wake.set)
            place = await _unless_gone(attach, receive)
            if place is not None:
                await _Connection(services, place, wake, receive, send).run()


async def _unless_gone(
    attach: Callable[[], Coroutine[Any, Any, Attachment]], receive: Receive
) -> Attachment | None:
    """What ``attach`` comes to, or None when the client hangs up first: nobody who is gone gets a session.

    A task that stood still finds calls in its sockets whose callers have long gone elsewhere.
    """
    async with asyncio.TaskGroup() as group:
        gone = group.create_task(_until_gone(receive))
        # What had come before this moment is known after one turn of the loop.
        await asyncio.sleep(0)
        if gone.done():
            return None
        attached = group.create_task(attach())
        await asyncio.wait((gone, attached), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        attached.cancel()
    return None if attached.cancelled() else attached.result()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        continue


class _Connection:
    def __init__(
        self, services: Services, place: Attachment, wake: asyncio.Event, receive: Receive, send: Send
    ) -> None:
        self._services, self._place, self._wake = services, place, wake
        self._receive, self._send = receive, send
        self._frames = self._bytes = 0

    async def run(self) -> None:
        """Accept, say ``ready``, then read and write until the link closes or the client is gone."""
        code = 1006
        try:
            await self._send({"type": "websocket.accept", "subprotocol": PROTOCOL})
            await self._text(encode(self._place.ready))
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read())
                writer = group.create_task(self._write())
                await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
                reader.cancel()
                writer.cancel()
        except* OSError:  # the client is gone: uvicorn raises ClientDisconnected, an OSError
            _log.debug("client_gone")
        finally:
            if self._place.session is not None:
                self._place.session.detach(self._place.link)
            code = int(self._place.link.close_code or code)
            self._count()
            self._services.metrics.websocket_closed(code)

    async def _read(self) -> None:
        link, session, clock = self._place.link, self._place.session, self._services.clock
        while (message := await self._receive())["type"] == "websocket.receive":
            if link.closing or session is None:
                continue
            data = message.get("bytes")
            try:
                if data is not None:
                    self._frames += 1
                    self._bytes += len(data)
                    session.speaker.audio(link, data, clock())
                else:
                    session.speaker.text(link, message["text"], clock())
            except Closing as closing:
                link.close(closing)

    async def _write(self) -> None:
        link, session, clock = self._place.link, self._place.session, self._services.clock
        nothing = Ack(self._place.ready.position, self._place.ready.position, 0)
        while True:
            now = clock()
            texts = link.take([], nothing, now) if session is None else session.speaker.take(link, now)
            for text in texts:
                await self._text(text)
            self._count()
            if link.closing and not link.waiting:
                await self._send({"type": "websocket.close", "code": int(link.close_code or 1000)})
                return
            await self._wake.wait()
            self._wake.clear()

    async def _text(self, text: str) -> None:
        await self._send({"type": "websocket.send", "text": text})

    def _count(self) -> None:
        # Counted in bundles: a counter's lock is dear next to the rest of what a frame costs.
        metrics = self._services.metrics
        metrics.frames_received.inc(self._frames)
        metrics.samples_received.inc(self._bytes // SAMPLE_BYTES)
        self._frames = self._bytes = 0


async def _ticket(scope: Scope, services: Services) -> Ticket:
    """The ticket to enter with: the one in the subprotocols, or one made for a bearer token.

    Raises:
        AuthError, Forbidden, SessionNotFound: refused.
    """
    session_id = str(scope["path_params"]["session_id"])
    ticket = await caller(scope, services)
    if isinstance(ticket, Principal):
        issued = await services.desk.ticket(ticket, session_id, "speaker")
        ticket = services.tickets.verify(issued.token)
    if not is_session_id(session_id) or ticket.session_id not in (session_id, None):
        raise SessionNotFound
    if ticket.role != "speaker":
        raise Forbidden("wrong_role", "an observer's ticket does not let anybody speak")
    return ticket


def _after(scope: Scope) -> int:
    value = parameter(scope, "after")
    if value is None:
        return 0
    if _DIGITS.fullmatch(value) and int(value) <= AFTER_MAX:
        return int(value)
    raise refused(400, "bad_after", "after is the seq of the last final you have, a whole number")
