"""Tickets: what a browser, which cannot set headers, enters a WebSocket with.

A ticket travels as a subprotocol (``ticket.<ticket>``), so it is in no URL and no access log. It is a JSON Web
Token signed with a key that only this house has; each of its characters is legal there (RFC 6455, section 4.1:
a token of RFC 9110). That it is used once, and in the order of serials, is judged by the session.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, Literal

import jwt
import msgspec

from app.auth.principal import AuthError
from tenants.clinic import ClinicId, parse_clinic_id

PROTOCOL: Final = "kikitori.v1"
"""The one subprotocol that the server answers with."""

TICKET_SECONDS: Final = 60
RESUME_TICKET_SECONDS: Final = 48 * 3600
"""Longer than a session and the 24 h in which it may be reopened."""

KEY_BYTES_MIN: Final = 32
_AUDIENCE: Final = "kikitori:ticket"
_PREFIX: Final = "ticket."
_CHARS_MAX: Final = 4096


class Ticket(msgspec.Struct, frozen=True):
    """What a ticket grants.

    Attributes:
        session_id: None for all the sessions of the clinic (observers only).
        serial: of two speakers' tickets for one session the higher one wins.
        ticket_id: unique; entering with it works once.
        resume: handed out by ``ready``; good for coming back as long as nobody newer came.
        expires_at: Unix time in seconds.
    """

    clinic_id: ClinicId
    session_id: str | None
    subject: str
    role: Literal["speaker", "observer"]
    serial: int
    ticket_id: str
    resume: bool
    expires_at: int


class IssuedTicket(msgspec.Struct, frozen=True):
    """A signed ticket; ``expires_at`` is an RFC 3339 time in UTC."""

    token: str
    expires_at: str


class Offer(msgspec.Struct, frozen=True):
    """What a client offered as subprotocols."""

    speaks_protocol: bool
    ticket: str | None


class _Claims(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    aud: str
    exp: int
    jti: str
    clinic: str
    sub: str
    role: Literal["speaker", "observer"]
    serial: int
    session: str | None = None
    resume: bool = False


class Tickets:
    """Signs and checks tickets.

    Args:
        key: at least 32 secret bytes, the same on every task.
        clock: Unix time in seconds.
        new_id: a fresh ``ticket_id`` for each call.
    """

    def __init__(
        self,
        key: bytes,
        clock: Callable[[], float],
        new_id: Callable[[], str] = lambda: secrets.token_urlsafe(16),
    ) -> None:
        if len(key) < KEY_BYTES_MIN:
            raise ValueError(f"a ticket key has at least {KEY_BYTES_MIN} bytes")
        self._key = key
        self._clock = clock
        self._new_id = new_id

    def issue(
        self,
        *,
        clinic_id: ClinicId,
        session_id: str | None,
        subject: str,
        role: Literal["speaker", "observer"],
        serial: int,
        resume: bool = False,
    ) -> IssuedTicket:
        """A ticket that lives 60 s, or 48 h when it is for resuming.

        Raises:
            ValueError: a speaker's ticket for no session.
        """
        if role == "speaker" and session_id is None:
            raise ValueError("a speaker's ticket names its session")
        expires = int(self._clock()) + (RESUME_TICKET_SECONDS if resume else TICKET_SECONDS)
        claims = _Claims(
            _AUDIENCE, expires, self._new_id(), clinic_id, subject, role, serial, session_id, resume
        )
        token = jwt.encode(msgspec.to_builtins(claims), self._key, algorithm="HS256")
        return IssuedTicket(token, datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))

    def verify(self, ticket: str) -> Ticket:
        """What ``ticket`` grants.

        Raises:
            AuthError: ``ticket_invalid`` or ``ticket_expired``.
        """
        claims = self._claims(ticket)
        clinic_id = parse_clinic_id(claims.clinic)
        if clinic_id is None or (claims.role == "speaker" and claims.session is None):
            raise _invalid()
        if self._clock() >= claims.exp:
            raise AuthError("ticket_expired", "the ticket has expired: ask for a new one")
        return Ticket(
            clinic_id,
            claims.session,
            claims.sub,
            claims.role,
            claims.serial,
            claims.jti,
            claims.resume,
            claims.exp,
        )

    def _claims(self, ticket: str) -> _Claims:
        if len(ticket) > _CHARS_MAX:
            raise _invalid()
        try:
            payload = jwt.decode(
                ticket, self._key, algorithms=["HS256"], audience=_AUDIENCE, options={"verify_exp": False}
            )
            return msgspec.convert(payload, _Claims)
        except (jwt.PyJWTError, msgspec.ValidationError):
            raise _invalid() from None


def parse_subprotocols(offered: Sequence[str]) -> Offer:
    """What the subprotocols of an upgrade say.

    Raises:
        AuthError: ``ticket_invalid``, more than one ticket is offered.
    """
    tickets = [name.removeprefix(_PREFIX) for name in offered if name.startswith(_PREFIX)]
    if len(tickets) > 1:
        raise _invalid()
    return Offer(PROTOCOL in offered, tickets[0] if tickets else None)


def _invalid() -> AuthError:
    return AuthError("ticket_invalid", "the ticket is refused: ask for a new one")
