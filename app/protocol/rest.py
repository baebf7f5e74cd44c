"""The bodies of the REST calls: the types that handlers decode with and OpenAPI is generated from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tenants.terms import Priority, Recording

Language = Annotated[str, Meta(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$", description="BCP 47 tag")]
Position = Annotated[int, Meta(ge=0, description="Samples at 16 kHz since the session began")]
Range = Annotated[tuple[int, int], Meta(description="[start, end) in samples")]
Role = Literal["speaker", "observer"]
SessionStateName = Literal["created", "live", "detached", "finishing", "completed", "failed", "cancelled"]


class _Request(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What a client sends: an unknown field is an error, so that a typo is not silently ignored."""


class _Response(msgspec.Struct, frozen=True, rename="camel"):
    """What the server answers."""


class Consent(_Request, frozen=True):
    """The patient's consent to recording."""

    given: bool
    at: Annotated[str, Meta(max_length=40, description="RFC 3339 time")]


class CreateSession(_Request, frozen=True, omit_defaults=True):
    """``POST /v1/sessions``."""

    language: Language
    title: Annotated[str, Meta(max_length=200)] | None = None
    external_id: Annotated[str, Meta(max_length=200)] | None = None
    speaker_labels: bool = False
    vocabulary: Annotated[str, Meta(max_length=200)] | None = None
    priority: Priority = "normal"
    recording: Recording = "audio+transcript"
    consent: Consent | None = None
    retention_days: Annotated[int, Meta(ge=1, le=36_500)] | None = None
    metadata: Annotated[dict[str, Annotated[str, Meta(max_length=1000)]], Meta(max_length=32)] = {}


class CreateTicket(_Request, frozen=True):
    """``POST /v1/sessions/{id}/tickets``."""

    role: Role


class SessionCreated(_Response, frozen=True):
    """The answer to ``POST /v1/sessions``."""

    session_id: str
    clinic_id: str
    state: SessionStateName
    stream_url: str
    ticket: str
    ticket_expires_at: str
    protocol: str


class TicketIssued(_Response, frozen=True):
    """The answer to both ticket calls."""

    ticket: str
    ticket_expires_at: str
    stream_url: str


class CoverageView(_Response, frozen=True):
    """What became of the samples, as ranges."""

    archived: list[Range]
    live: list[Range]
    filled: list[Range]
    untranscribed: list[Range]
    missing: list[Range]


class Positions(_Response, frozen=True):
    """How far a session got, in samples."""

    received: Position
    durable: Position
    settled: Position


class SessionItem(_Response, frozen=True, omit_defaults=True):
    """One row of ``GET /v1/sessions``."""

    session_id: str
    clinic_id: str
    state: SessionStateName
    language: str
    created_at: str
    created_by: str
    title: str | None = None
    external_id: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    samples: Position = 0
    finals: int = 0


class SessionPage(_Response, frozen=True):
    """``GET /v1/sessions``, newest first; ``nextCursor`` is null on the last page."""

    items: list[SessionItem]
    next_cursor: str | None


class SessionView(SessionItem, frozen=True, omit_defaults=False):
    """``GET /v1/sessions/{id}``."""

    recording: Recording = "audio+transcript"
    priority: Priority = "normal"
    positions: Positions = Positions(0, 0, 0)
    coverage: CoverageView | None = None
    owner: str | None = None
    epoch: int = 0
    audio_sha256: str | None = msgspec.field(default=None, name="audioSha256")
    metadata: dict[str, str] = {}


class WordView(_Response, frozen=True, omit_defaults=True):
    """One word of a transcript."""

    text: str
    start: Position
    end: Position
    confidence: float
    speaker: str | None = None


class FinalView(_Response, frozen=True):
    """One final of a transcript."""

    seq: int
    id: str
    start: Position
    end: Position
    text: str
    words: list[WordView]
    language: str


class TranscriptView(_Response, frozen=True):
    """``GET /v1/sessions/{id}/transcript?format=json``: what is final so far."""

    session_id: str
    language: str
    state: SessionStateName
    samples: Position
    finals: list[FinalView]
    coverage: CoverageView | None = None


class SignIn(_Response, frozen=True):
    """How the page signs in. ``issuer`` is null with the development issuer."""

    mode: Literal["development", "oidc"]
    issuer: str | None = None
    client_id: str | None = None


class ConfigView(_Response, frozen=True, omit_defaults=True):
    """``GET /v1/config``."""

    protocol: str
    engine: str
    languages: list[str]
    sign_in: SignIn
    limits: dict[str, int]
    clinic_id: str | None = None
    consent_required: bool | None = None


class ReadyView(_Response, frozen=True):
    """``GET /readyz``; each check is ``ok`` or one word that says what is wrong."""

    status: Literal["ready", "not_ready", "draining"]
    checks: dict[str, str]


class HealthView(_Response, frozen=True):
    """``GET /healthz``."""

    status: Literal["ok"]


class Problem(_Response, frozen=True, omit_defaults=False):
    """``application/problem+json`` (RFC 9457) with a stable ``code``."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str


JsonObject = dict[str, Any]
