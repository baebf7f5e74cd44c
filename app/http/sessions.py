"""The calls on sessions. They translate; what is done, and whether it may be, is the session manager's to say."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta
from starlette.responses import Response

from app.auth.principal import Scope
from app.auth.tickets import PROTOCOL
from app.http import subtitles
from app.http.calls import Call, Nothing, require
from app.protocol.rest import CreateSession, CreateTicket, SessionCreated, SessionStateName, TicketIssued
from app.sessions.errors import Unprocessable
from app.sessions.index import SessionQuery

_IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")

Time = Annotated[datetime, Meta(tz=True)]


class ListQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Which sessions, newest first. Times are compared with ``createdAt``: from ``from`` on, before ``to``."""

    state: SessionStateName | None = None
    from_: Time | None = msgspec.field(default=None, name="from")
    to: Time | None = None
    q: Annotated[str, Meta(max_length=200, description="part of the title")] | None = None
    external_id: Annotated[str, Meta(max_length=200)] | None = None
    cursor: Annotated[str, Meta(max_length=64, description="nextCursor of the page before")] | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class TranscriptQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """In which form."""

    format: Literal["json", "txt", "srt", "vtt"] = "json"


async def create(call: Call[Nothing, CreateSession]) -> Response:
    """``POST /v1/sessions``."""
    key = call.request.headers.get("idempotency-key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise Unprocessable(
            "invalid_idempotency_key", "Idempotency-Key has 1 to 255 visible ASCII characters"
        )
    admission = await call.services.desk.create(call.principal, call.body, key)
    created = SessionCreated(
        session_id=admission.item.session_id,
        clinic_id=admission.item.clinic_id,
        state=admission.item.state,
        stream_url=_stream_url(call.services.settings.public_url, admission.item.session_id),
        ticket=admission.ticket.token,
        ticket_expires_at=admission.ticket.expires_at,
        protocol=PROTOCOL,
    )
    return json(created, 201, {"Location": f"/v1/sessions/{created.session_id}"})


async def ticket(call: Call[Nothing, CreateTicket]) -> Response:
    """``POST /v1/sessions/{id}/tickets``."""
    speaker = call.body.role == "speaker"
    require(call.principal, Scope.WRITE if speaker else Scope.READ)
    issued = await call.services.desk.ticket(call.principal, call.session_id, call.body.role)
    public_url = call.services.settings.public_url
    url = _stream_url(public_url, call.session_id) if speaker else _events_url(public_url, call.session_id)
    return json(TicketIssued(issued.token, issued.expires_at, url), 201)


async def clinic_ticket(call: Call[Nothing, Nothing]) -> Response:
    """``POST /v1/clinic/tickets``."""
    issued = await call.services.desk.clinic_ticket(call.principal)
    return json(
        TicketIssued(issued.token, issued.expires_at, _events_url(call.services.settings.public_url)), 201
    )


async def page(call: Call[ListQuery, Nothing]) -> Response:
    """``GET /v1/sessions``."""
    wanted = call.query
    query = SessionQuery(
        state=wanted.state,
        created_from=_utc(wanted.from_),
        created_to=_utc(wanted.to),
        title_contains=wanted.q,
        external_id=wanted.external_id,
        cursor=wanted.cursor,
        limit=wanted.limit,
    )
    return json(await call.services.catalog.page(call.principal, query))


async def view(call: Call[Nothing, Nothing]) -> Response:
    """``GET /v1/sessions/{id}``."""
    return json(await call.services.catalog.view(call.principal, call.session_id))


async def stop(call: Call[Nothing, Nothing]) -> Response:
    """``POST /v1/sessions/{id}/stop``."""
    await call.services.catalog.stop(call.principal, call.session_id)
    return Response(status_code=202)


async def transcript(call: Call[TranscriptQuery, Nothing]) -> Response:
    """``GET /v1/sessions/{id}/transcript``."""
    found = await call.services.catalog.transcript(call.principal, call.session_id)
    if call.query.format == "json":
        return json(found)
    write, media_type = {
        "txt": (subtitles.plain_text, "text/plain"),
        "srt": (subtitles.srt, "application/x-subrip"),
        "vtt": (subtitles.vtt, "text/vtt"),
    }[call.query.format]
    return Response(write(found).encode(), headers={"Content-Type": f"{media_type}; charset=utf-8"})


def json(answer: msgspec.Struct, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """``answer`` as JSON."""
    return Response(msgspec.json.encode(answer), status, headers, "application/json")


def _stream_url(public_url: str, session_id: str) -> str:
    return f"{_websocket(public_url)}/v1/sessions/{session_id}/stream"


def _events_url(public_url: str, session_id: str = "") -> str:
    return f"{_websocket(public_url)}/v1/events" + (f"?session={session_id}" if session_id else "")


def _websocket(public_url: str) -> str:
    return "ws" + public_url.removeprefix("http")


def _utc(time: datetime | None) -> str | None:
    """As ``createdAt`` is written, so that texts compare as times do."""
    return (
        None
        if time is None
        else time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
