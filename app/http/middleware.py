"""What every request passes through, outermost first: ``Envelope``, ``Problems``, ``Gate``. Plain ASGI."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.config import Settings
from app.errors import Refusal, refusal, refused, reject_websocket
from app.http.problems import not_found, problem_response
from app.http.proxies import caller_address
from app.telemetry.logs import bound, logger
from app.telemetry.metrics import Metrics

_log = logger(__name__)

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HIDDEN: Final = (b"%2f", b"%5c", b"%00")
_HTTP_START: Final = frozenset({"http.response.start", "websocket.http.response.start"})
_SECURITY: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def middleware(settings: Settings, metrics: Metrics) -> list[Middleware]:
    """For ``Starlette(middleware=...)``, in this order."""
    return [
        Middleware(Envelope, settings, metrics),
        Middleware(Problems, settings),
        Middleware(Gate, settings),
    ]


class Envelope:
    """Gives each request an id and its caller's address (in ``scope["state"]``), each answer its headers; counts both.

    An id that the caller sent is kept if it is harmless. A WebSocket counts when it is accepted or refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], float] = time.perf_counter,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock
        self._new_id = new_id
        self._trusted = settings.trusted_proxies
        self._headers = dict(_SECURITY)
        if settings.public_url.startswith("https:"):
            self._headers["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with the id in every log line."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        request_id = self._note(scope)
        started = self._clock()
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            first = _status_of(message)
            if first:
                status = first
                self._complete(message, request_id)
            await send(message)
            if first and scope["type"] == "websocket":
                self._count(scope, first, started)

        with bound(requestId=request_id):
            try:
                await self._app(scope, receive, send_on)
            finally:
                if status and scope["type"] == "http":
                    self._count(scope, status, started)

    def _note(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        sent = headers.get("x-request-id", "")
        request_id = sent if _REQUEST_ID.fullmatch(sent) else self._new_id()
        peer = (scope.get("client") or (None,))[0]
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["caller"] = caller_address(peer, headers.getlist("x-forwarded-for"), self._trusted)
        return request_id

    def _complete(self, message: Message, request_id: str) -> None:
        headers = MutableHeaders(raw=list(message.get("headers", [])))
        headers["X-Request-ID"] = request_id
        if message["type"] in _HTTP_START:
            for name, value in self._headers.items():
                headers.setdefault(name, value)
        message["headers"] = headers.raw

    def _count(self, scope: Scope, status: int, started: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.http_finished(scope.get("method", "GET"), route, status, self._clock() - started)


class Problems:
    """Turns whatever escapes from further in into a problem body, or a close where a socket is open already.

    An error after an HTTP answer has begun is raised on: the server cuts the connection, so that a client does not
    take a part for the whole. Where another task may take what this one refuses, the balancer's cookie is taken back:
    it would lead the client here again.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        cookie = settings.sticky_cookie
        self._unstick = {} if cookie is None else {"Set-Cookie": f"{cookie}=; Max-Age=0; Path=/"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and answer for what goes wrong."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        seen: set[str] = set()

        async def send_on(message: Message) -> None:
            seen.add(message["type"])
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except ClientDisconnect:
            return
        except Exception as error:
            reason = refusal(error)
            if reason.code == "internal":
                _log.error("request failed", exc_info=error)
            if "http.response.start" in seen:
                raise
            if reason.elsewhere:
                reason = replace(reason, headers={**reason.headers, **self._unstick})
            await _answer(reason, scope, receive, send_on, seen)


async def _answer(reason: Refusal, scope: Scope, receive: Receive, send: Send, seen: set[str]) -> None:
    if scope["type"] == "http":
        await problem_response(scope, reason)(scope, receive, send)
    elif not seen:
        await reject_websocket(scope, send, reason)
    elif seen.isdisjoint({"websocket.close", "websocket.http.response.start"}):
        await send({"type": "websocket.close", "code": int(reason.close_code), "reason": reason.code})


class Gate:
    """Lets in only what is meant for this server: its own ``Host`` names, the allowed ``Origin``s, honest paths."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = frozenset(settings.allowed_hosts)
        self._origins = frozenset(settings.allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or raise ``Refused``."""
        if scope["type"] in {"http", "websocket"}:
            self._judge(scope)
        await self._app(scope, receive, send)

    def _judge(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        # Balancers ask for the health by address.
        if scope["path"] != "/healthz" and not (len(hosts) == 1 and self._knows(hosts[0].lower())):
            raise refused(403, "host_not_allowed", "this server does not answer under that Host")
        if origins and not (len(origins) == 1 and origins[0].lower() in self._origins):
            raise refused(403, "origin_not_allowed", "pages of that Origin may not call this server")
        if _is_disguised(scope):
            raise not_found()

    def _knows(self, host: str) -> bool:
        return host in self._hosts or host.removesuffix(":443").removesuffix(":80") in self._hosts


def _is_disguised(scope: Scope) -> bool:
    """Whether the path has dot segments, or separators that were encoded to look like part of a name."""
    raw = scope.get("raw_path") or b""
    return any(mark in raw.lower() for mark in _HIDDEN) or not {".", ".."}.isdisjoint(
        scope["path"].split("/")
    )


def _status_of(message: Message) -> int:
    """The status that a message begins an answer with; 0 for any other message."""
    if message["type"] in _HTTP_START:
        return int(message["status"])
    return 101 if message["type"] == "websocket.accept" else 0
