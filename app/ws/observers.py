"""``GET /v1/events``: an observer's WebSocket, of one session or of all the clinic's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from starlette.types import Receive, Scope, Send

from app.auth.principal import AuthError, Forbidden, Principal
from app.auth.principal import Scope as Grant
from app.auth.tickets import Ticket
from app.errors import refused
from app.events.model import Cursor
from app.events.observer import Observer
from app.events.outbox import Ending
from app.protocol.close import RETRYABLE, CloseCode
from app.protocol.messages import PROTOCOL, ErrorMessage, MalformedMessage, Ping, Pong, decode_client, encode
from app.services import Services
from app.sessions.catalog import find_session
from app.telemetry.logs import bound, logger
from app.ws.entry import caller, parameter
from tenants.clinic import ClinicId

CLOSE_SECONDS: Final = 5.0
"""How long an observer that is sent away may take to read what is left for it."""

_log = logger(__name__)


class _Refusal(Exception):
    """The connection is to be closed."""

    def __init__(self, code: CloseCode, word: str, message: str) -> None:
        super().__init__(message)
        self.code, self.word = code, word


_ENDINGS: Final = {
    Ending.TOO_SLOW: _Refusal(
        CloseCode.TOO_SLOW, "too_slow", "too slow to follow; come back with the last cursor"
    ),
    Ending.EXPIRED: _Refusal(
        CloseCode.CURSOR_EXPIRED, "cursor_expired", "the log no longer holds what came after this cursor"
    ),
    Ending.RESTARTING: _Refusal(CloseCode.RESTARTING, "restarting", "this task goes away"),
}


class _Wanted(msgspec.Struct, frozen=True):
    clinic_id: ClinicId
    session_id: str | None
    after: Cursor | None


class ObserverEndpoint:
    """Refuses before the upgrade whatever can be refused, then carries events until one side ends it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection.

        Raises:
            Whatever ``app.errors`` knows: the upgrade is refused for it, and a ticket is not used up, but by an answer that was lost.
        """
        await receive()
        services: Services = scope["app"].state.services
        entrant = await caller(scope, services)
        wanted = await _wanted(scope, services, entrant)
        with bound(clinicId=wanted.clinic_id, sessionId=wanted.session_id or ""):
            async with services.hub.observing(wanted.clinic_id, wanted.session_id, wanted.after) as observer:
                if isinstance(entrant, Ticket) and not await services.entries.enter(entrant):
                    raise AuthError("ticket_used", "this ticket was used already; ask for a new one")
                await _Connection(services, observer, receive, send).run()


class _Connection:
    def __init__(self, services: Services, observer: Observer, receive: Receive, send: Send) -> None:
        self._metrics, self._clock = services.metrics, services.clock
        self._observer, self._receive, self._send = observer, receive, send
        self._code = CloseCode.ABNORMAL

    async def run(self) -> None:
        """Accept, then write and read until the observer is sent away or gone."""
        try:
            await self._send({"type": "websocket.accept", "subprotocol": PROTOCOL})
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(part()) for part in (self._read, self._write, self._overdue)]
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    for task in tasks:
                        task.cancel()
            except* _Refusal as refusals:
                await self._close(_first(refusals))
        except* OSError:  # the client is gone: uvicorn raises ClientDisconnected, an OSError
            _log.debug("client_gone")
        finally:
            self._metrics.websocket_closed(int(self._code))

    async def _write(self) -> None:
        observer = self._observer
        while texts := await observer.next():
            for text in texts:
                await self._send({"type": "websocket.send", "text": text})
            self._metrics.events_delivered.inc(len(texts))
            if observer.heard is not None:
                self._metrics.event_delivery_seconds.observe(self._clock() - observer.heard)
        assert observer.ending is not None
        await self._close(_ENDINGS[observer.ending])

    async def _read(self) -> None:
        while (message := await self._receive())["type"] == "websocket.receive":
            if message.get("bytes") is not None:
                raise _Refusal(CloseCode.ROLE, "wrong_role", "an observer does not speak")
            try:
                said = decode_client(message["text"])
            except MalformedMessage as error:
                raise _Refusal(CloseCode.MALFORMED, error.code, str(error)) from None
            if not isinstance(said, Ping):
                raise _Refusal(CloseCode.ROLE, "wrong_role", "an observer sends pings only")
            self._observer.outbox.answer(encode(Pong(said.id)))

    async def _overdue(self) -> None:
        await self._observer.ended.wait()
        await asyncio.sleep(CLOSE_SECONDS)

    async def _close(self, why: _Refusal) -> None:
        if why.code >= 4000:  # the contract asks for an error message before each code of its own
            text = encode(ErrorMessage(why.word, str(why), why.code in RETRYABLE))
            await self._send({"type": "websocket.send", "text": text})
        self._code = why.code
        await self._send({"type": "websocket.close", "code": int(why.code)})


async def _wanted(scope: Mapping[str, Any], services: Services, entrant: Ticket | Principal) -> _Wanted:
    after = _after(scope)
    if isinstance(entrant, Ticket):
        if entrant.role != "observer":
            raise Forbidden("wrong_role", "a speaker's ticket does not let anybody observe")
        if entrant.session_id is not None:
            return _Wanted(entrant.clinic_id, entrant.session_id, after)
    elif not entrant.may(Grant.READ):
        raise Forbidden("insufficient_scope", f"this needs a token with the scope {Grant.READ}")
    session_id = parameter(scope, "session") or None
    if session_id is not None:
        await find_session(services.store, entrant.clinic_id, session_id)
    return _Wanted(entrant.clinic_id, session_id, after)


def _after(scope: Mapping[str, Any]) -> Cursor | None:
    text = parameter(scope, "after")
    try:
        return Cursor.parse(text) if text else None
    except ValueError:
        raise refused(400, "bad_after", "after is the cursor of the last event you have") from None


def _first(group: BaseExceptionGroup[_Refusal]) -> _Refusal:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
