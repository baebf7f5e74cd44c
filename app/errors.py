"""What each domain error is at the edge: one table for HTTP answers, refused upgrades and close codes.

Problem bodies are RFC 9457; ``type`` is ``urn:kikitori:problem:<code>``, so that ``code`` and ``type`` say the same,
or ``about:blank`` where the status alone says all there is (section 4.2.1).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any, Final

import msgspec

from app.archive.store import StoreUnavailable
from app.auth.entries import EntriesUnavailable
from app.auth.principal import AuthError, Forbidden
from app.auth.tokens import KeysUnavailable
from app.events.hub import ClinicFull, HubDraining, HubFull
from app.events.log import LogUnavailable
from app.protocol.close import RETRYABLE, CloseCode
from app.protocol.rest import Problem
from app.sessions.errors import (
    Busy,
    IdempotencyInFlight,
    NoAudio,
    NotFinished,
    NotTheSpeaker,
    SessionNotFound,
    SpeakerConnected,
    Superseded,
    Unprocessable,
)
from app.sessions.index import IndexUnavailable
from tenants.registry import RegistryUnavailable

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PROBLEM_MEDIA: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 2
"""What a caller is told to wait when a dependency does not answer."""


class Refusal(msgspec.Struct, frozen=True):
    """An error as a client sees it.

    Attributes:
        code: the stable word.
        close_code: for a socket that is already open.
        headers: what the status asks for: ``Retry-After``, ``WWW-Authenticate``, ``Allow``, ``Content-Range``.
        elsewhere: another task may take what this one has no room for.
    """

    status: int
    code: str
    title: str
    detail: str
    close_code: CloseCode
    headers: Mapping[str, str] = {}
    elsewhere: bool = False

    @property
    def retryable(self) -> bool:
        """Whether a client whose socket is closed for this should come back by itself."""
        return self.close_code in RETRYABLE


class Refused(Exception):
    """Raised at the edge itself, where no domain error stands behind a refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


class _Rule(msgspec.Struct, frozen=True):
    """One row. Where ``code`` or ``detail`` is None the error's own ``code`` or text is used."""

    status: int
    title: str
    close_code: CloseCode
    code: str | None = None
    detail: str | None = None


def _down(what: str, code: str) -> _Rule:
    return _Rule(
        503, f"The {what} does not answer", CloseCode.DEPENDENCY, code, "nothing was lost: try again shortly"
    )


_INTERNAL: Final = _Rule(
    500,
    "Internal error",
    CloseCode.INTERNAL,
    "internal",
    "something went wrong here; the request id says where to look in the server's log",
)

_TABLE: Final[Mapping[type[BaseException], _Rule]] = {
    AuthError: _Rule(401, "Not authenticated", CloseCode.ACCESS_ENDED),
    Forbidden: _Rule(403, "Not allowed", CloseCode.ROLE),
    NotTheSpeaker: _Rule(403, "Not the speaker", CloseCode.ROLE),
    SessionNotFound: _Rule(
        404, "No such session", CloseCode.ROLE, detail="the clinic has no session with this id"
    ),
    SpeakerConnected: _Rule(409, "A speaker is connected", CloseCode.SUPERSEDED),
    NotFinished: _Rule(409, "The session is not finished", CloseCode.SUPERSEDED),
    NoAudio: _Rule(409, "The session has no audio", CloseCode.SUPERSEDED),
    Superseded: _Rule(409, "A newer connection has the session", CloseCode.SUPERSEDED),
    IdempotencyInFlight: _Rule(409, "The same call is under way", CloseCode.SUPERSEDED),
    Unprocessable: _Rule(422, "Cannot be granted", CloseCode.MALFORMED),
    Busy: _Rule(503, "No room for a new session", CloseCode.DEPENDENCY),
    StoreUnavailable: _down("archive", "archive_unavailable"),
    IndexUnavailable: _down("list of sessions", "index_unavailable"),
    RegistryUnavailable: _down("register of clinics", "registry_unavailable"),
    LogUnavailable: _down("event log", "log_unavailable"),
    EntriesUnavailable: _down("register of tickets", "tickets_unavailable"),
    HubDraining: _Rule(
        503,
        "No new observer here",
        CloseCode.DEPENDENCY,
        "draining",
        "this server goes away; try again to reach another",
    ),
    HubFull: _Rule(
        503,
        "No room for a new observer",
        CloseCode.DEPENDENCY,
        "full",
        "this server carries all the observers it may; try again to reach another",
    ),
    ClinicFull: _Rule(
        429,
        "The clinic's limit is reached",
        CloseCode.QUOTA,
        "quota",
        "the clinic has all the observers it may have here; close one, or try again later",
    ),
    KeysUnavailable: _down("identity provider", "keys_unavailable"),
    msgspec.ValidationError: _Rule(
        422, "The body is not as it should be", CloseCode.MALFORMED, "invalid_body"
    ),
    msgspec.DecodeError: _Rule(400, "The body is no JSON", CloseCode.MALFORMED, "malformed_json"),
}


def refusal(error: BaseException) -> Refusal:
    """What ``error`` is to a client. An error that is in no row, or is a bug, is ``internal`` and tells nothing."""
    if isinstance(error, Refused):
        return error.refusal
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        # A task group wraps the one error that ended it.
        return refusal(error.exceptions[0])
    rule = next((_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE), _INTERNAL)
    if isinstance(error, Busy) and error.code == "quota":
        rule = _Rule(429, "The clinic's limit is reached", CloseCode.QUOTA)
    return Refusal(
        status=rule.status,
        code=rule.code or str(getattr(error, "code", "internal")),
        title=rule.title,
        detail=rule.detail or str(error) or rule.title,
        close_code=rule.close_code,
        headers=_headers(rule.status, error),
        elsewhere=isinstance(error, (Busy, HubDraining, HubFull))
        and rule.status == HTTPStatus.SERVICE_UNAVAILABLE,
    )


def status_refusal(status: int, headers: Mapping[str, str] | None = None, detail: str = "") -> Refusal:
    """A refusal that the status alone explains, such as 404 for an unknown path or 405."""
    phrase = HTTPStatus(status).phrase
    close_code = CloseCode.INTERNAL if status >= 500 else CloseCode.MALFORMED
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    return Refusal(status, code, phrase, detail or phrase, close_code, dict(headers or {}))


def refused(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> Refused:
    """For the edge's own refusals."""
    phrase = HTTPStatus(status).phrase
    close_code = CloseCode.ROLE if status == HTTPStatus.FORBIDDEN else CloseCode.MALFORMED
    return Refused(Refusal(status, code, phrase, detail, close_code, dict(headers or {})))


def problem_body(reason: Refusal, request_id: str) -> bytes:
    """The ``application/problem+json`` body."""
    phrase = HTTPStatus(reason.status).phrase
    kind = "about:blank" if reason.title == phrase else f"urn:kikitori:problem:{reason.code}"
    return msgspec.json.encode(
        Problem(kind, reason.title, reason.status, reason.detail, reason.code, request_id),
    )


def request_id_of(scope: MutableMapping[str, Any]) -> str:
    """The id that the middleware gave this request; ``-`` where none did."""
    return str(scope.get("state", {}).get("request_id", "-"))


async def reject_websocket(scope: MutableMapping[str, Any], send: Send, reason: Refusal) -> None:
    """Refuse an upgrade that was not yet accepted, as an HTTP answer with a problem body.

    Needs the ASGI extension ``websocket.http.response``; a server without it answers 403.
    """
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": int(reason.close_code), "reason": reason.code})
        return
    body = problem_body(reason, request_id_of(scope))
    headers = {"content-type": PROBLEM_MEDIA, "content-length": str(len(body)), **reason.headers}
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "websocket.http.response.start", "status": reason.status, "headers": raw})
    await send({"type": "websocket.http.response.body", "body": body})


def _headers(status: int, error: BaseException) -> dict[str, str]:
    if isinstance(error, Busy):
        return {"Retry-After": str(error.retry_after)}
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        return {"Retry-After": str(RETRY_AFTER_SECONDS)}
    if isinstance(error, AuthError):
        # RFC 6750, section 3.1: no error word when no token was sent at all.
        return {
            "WWW-Authenticate": "Bearer"
            if error.code.endswith("_missing")
            else 'Bearer error="invalid_token"'
        }
    return {}
