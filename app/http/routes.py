"""The table of REST calls, and the routes made of it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from app.auth.principal import Scope as Grant
from app.errors import refused
from app.http import audio, sessions, system
from app.http.calls import Access, Call, Nothing, Operation, perform
from app.http.console import FILES, console_routes
from app.http.openapi import SOCKET_PATHS, document
from app.http.problems import method_not_allowed, not_found
from app.protocol.rest import (
    ConfigView,
    CreateSession,
    CreateTicket,
    HealthView,
    ReadyView,
    SessionCreated,
    SessionPage,
    SessionView,
    TicketIssued,
    TranscriptView,
)


async def _openapi(_call: Call[Nothing, Nothing]) -> Response:
    return Response(_document(), media_type="application/json")


OPERATIONS: Final[tuple[Operation[Any, Any], ...]] = (
    Operation(
        "POST", "/v1/sessions", "createSession", "Create a session and get its first speaker's ticket",
        sessions.create, Nothing, CreateSession, {201: (SessionCreated,)},
        scope=Grant.WRITE, refusals=(409, 429, 503), idempotent=True,
    ),
    Operation(
        "GET", "/v1/sessions", "listSessions", "The clinic's sessions, newest first",
        sessions.page, sessions.ListQuery, Nothing, {200: (SessionPage,)}, scope=Grant.READ,
    ),
    Operation(
        "GET", "/v1/sessions/{session_id}", "getSession", "A session: state, positions, coverage",
        sessions.view, Nothing, Nothing, {200: (SessionView,)}, scope=Grant.READ,
    ),
    Operation(
        "GET", "/v1/sessions/{session_id}/transcript", "getTranscript", "What is final so far",
        sessions.transcript, sessions.TranscriptQuery, Nothing,
        {200: (TranscriptView, "text/plain", "application/x-subrip", "text/vtt")}, scope=Grant.READ,
    ),
    Operation(
        "GET", "/v1/sessions/{session_id}/audio", "getAudio", "The archived audio of a finished session",
        audio.audio, audio.AudioQuery, Nothing,
        {200: ("audio/flac", "audio/wav"), 206: ("audio/flac", "audio/wav")},
        scope=Grant.READ, refusals=(409, 416),
        description="One byte range is served (Range, If-Range with the ETag); several are answered with the whole.",
    ),
    Operation(
        "POST", "/v1/sessions/{session_id}/stop", "stopSession", "End a session whose speaker is gone",
        sessions.stop, Nothing, Nothing, {202: ()}, scope=Grant.WRITE, refusals=(409,),
    ),
    Operation(
        "POST", "/v1/sessions/{session_id}/tickets", "createTicket", "A ticket for a session's WebSocket",
        sessions.ticket, Nothing, CreateTicket, {201: (TicketIssued,)},
        description="A speaker needs sessions:write, an observer sessions:read.",
    ),
    Operation(
        "POST", "/v1/clinic/tickets", "createClinicTicket", "An observer's ticket for all the clinic's sessions",
        sessions.clinic_ticket, Nothing, Nothing, {201: (TicketIssued,)}, scope=Grant.READ,
    ),
    Operation(
        "GET", "/v1/config", "getConfig", "Languages and sign-in; with a token also what the clinic may use",
        system.config, Nothing, Nothing, {200: (ConfigView,)}, access=Access.TOKEN_OPTIONAL,
    ),
    Operation(
        "GET", "/healthz", "getHealth", "Whether the process can serve at all",
        system.health, Nothing, Nothing, {200: (HealthView,)}, access=Access.ANYBODY,
    ),
    Operation(
        "GET", "/readyz", "getReadiness", "Whether new sessions may come here",
        system.ready, Nothing, Nothing, {200: (ReadyView,), 503: (ReadyView,)}, access=Access.ANYBODY,
    ),
    Operation(
        "GET", "/openapi.json", "getOpenApi", "This description",
        _openapi, Nothing, Nothing, {200: ("application/json",)}, access=Access.ANYBODY,
    ),
)  # fmt: skip


def rest_routes(console: Path = FILES) -> list[BaseRoute]:
    """Every route but the WebSockets', which must stand before these: the last two refuse whatever came so far."""
    paths = dict.fromkeys(operation.path for operation in OPERATIONS)
    return [
        *(Route(path, Endpoint([found for found in OPERATIONS if found.path == path])) for path in paths),
        *(Route(path, _UpgradeRequired()) for path in SOCKET_PATHS),
        *console_routes(console),
        Route("/{path:path}", _Nothing()),
        WebSocketRoute("/{path:path}", _Nothing()),
    ]


class Endpoint:
    """An ASGI application for the operations of one path."""

    def __init__(self, operations: Sequence[Operation[Any, Any]]) -> None:
        self.by_method = {operation.method: operation for operation in operations}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Perform the operation of the request's method.

        Raises:
            Refused, and whatever ``perform`` and the handler raise: nothing was sent.
        """
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        operation = self.by_method.get(method)
        if operation is None:
            raise method_not_allowed(self.by_method)
        response = await perform(operation, Request(scope, receive))
        await response(scope, receive, send)


@functools.cache
def _document() -> bytes:
    return msgspec.json.encode(document(OPERATIONS))


class _UpgradeRequired:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise refused(
            HTTPStatus.UPGRADE_REQUIRED,
            "upgrade_required",
            "this is a WebSocket",
            {"Upgrade": "websocket", "Connection": "Upgrade"},
        )


class _Nothing:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope["route"]
        raise not_found()
