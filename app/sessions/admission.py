"""How a session comes to be, and how one gets a ticket for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from app.archive.history import History
from app.archive.reader import load_history
from app.archive.records import SessionRecord, encode_record, session_key
from app.archive.store import StoreError, StoreUnavailable
from app.auth.principal import Forbidden, Principal, Scope
from app.auth.tickets import IssuedTicket, Tickets
from app.protocol.rest import CreateSession, Role, SessionItem
from app.sessions.catalog import find_session
from app.sessions.deps import SessionDeps
from app.sessions.errors import (
    Busy,
    IdempotencyInFlight,
    NotTheSpeaker,
    Unprocessable,
)
from app.sessions.herald import Herald
from app.sessions.index import IndexUnavailable, Reservation
from app.sessions.manager import SessionManager
from app.sessions.views import archived_item
from tenants.registry import ClinicRegistry
from tenants.terms import SessionRef

RETRY_AFTER_SECONDS: Final = 2


class Admission(msgspec.Struct, frozen=True):
    """A session that may be spoken into."""

    item: SessionItem
    ticket: IssuedTicket


class Serials:
    """Serials of tickets: microseconds of the clock, moved on where it stands or where another task's was ahead."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._last = 0

    def after(self, seen: int) -> int:
        """A serial above ``seen`` and above all that were given here before."""
        self._last = max(int(self._wall() * 1_000_000), self._last + 1, seen + 1)
        return self._last


class Desk:
    """Creates sessions and issues tickets."""

    def __init__(
        self,
        deps: SessionDeps,
        manager: SessionManager,
        tickets: Tickets,
        *,
        herald: Herald,
        registry: ClinicRegistry,
        new_session_id: Callable[[], str],
    ) -> None:
        self._deps, self._manager, self._tickets, self._herald = deps, manager, tickets, herald
        self._registry, self._new_session_id = registry, new_session_id
        self._serials = Serials(deps.wall)

    async def create(
        self, principal: Principal, request: CreateSession, idempotency_key: str | None
    ) -> Admission:
        """Create a session, or find the one that the same ``idempotency_key`` created.

        Raises:
            Unprocessable: the engine or the clinic cannot do what is asked, or the key was used for something else.
            IdempotencyInFlight: the first call with this key is not through.
            Busy, StoreUnavailable, IndexUnavailable: try again.
        """
        await self._check(principal, request)
        if idempotency_key is None:
            return await self._create(principal, request)
        key = hashlib.sha256(f"create\0{principal.subject}\0{idempotency_key}".encode()).hexdigest()
        fingerprint = hashlib.sha256(msgspec.json.encode(request)).hexdigest()
        held = await self._deps.index.reserve(principal.clinic_id, key, Reservation(fingerprint, None))
        if held is not None:
            return await self._repeat(principal, held, fingerprint)
        try:
            admission = await self._create(principal, request)
        except (StoreError, Busy):
            # Nothing was promised: the next call with this key is a first one again.
            with suppress(IndexUnavailable):
                await self._deps.index.reserve(principal.clinic_id, key, None)
            raise
        done = Reservation(fingerprint, admission.item.session_id)
        await self._deps.index.reserve(principal.clinic_id, key, done)
        return admission

    async def ticket(self, principal: Principal, session_id: str, role: Role) -> IssuedTicket:
        """A ticket for one session.

        Raises:
            SessionNotFound, NotTheSpeaker, Forbidden, StoreError: refused.
        """
        ref, history = await find_session(self._deps.store, principal.clinic_id, session_id)
        if role == "speaker":
            self._may_speak(principal, history)
        elif not principal.may(Scope.READ):
            raise Forbidden("insufficient_scope", f"this needs the scope {Scope.READ}")
        return self._issue(principal, ref, role, history.speaker_serial)

    async def clinic_ticket(self, principal: Principal) -> IssuedTicket:
        """An observer's ticket for all sessions of the clinic."""
        return self._tickets.issue(
            clinic_id=principal.clinic_id,
            session_id=None,
            subject=principal.subject,
            role="observer",
            serial=self._serials.after(0),
        )

    def _may_speak(self, principal: Principal, history: History) -> None:
        if not principal.may(Scope.WRITE):
            raise Forbidden("insufficient_scope", f"this needs the scope {Scope.WRITE}")
        if history.session.created_by != principal.subject and not principal.may(Scope.TAKEOVER):
            raise NotTheSpeaker(
                "only who created the session, or a holder of sessions:takeover, may speak in it"
            )

    def _issue(self, principal: Principal, ref: SessionRef, role: Role, seen: int) -> IssuedTicket:
        return self._tickets.issue(
            clinic_id=ref.clinic_id,
            session_id=ref.session_id,
            subject=principal.subject,
            role=role,
            serial=self._serials.after(seen),
        )

    async def _check(self, principal: Principal, request: CreateSession) -> None:
        self._manager.require_room()
        engine = self._deps.engine.capabilities
        if engine.languages and request.language not in engine.languages:
            known = ", ".join(sorted(engine.languages))
            raise Unprocessable("language_not_available", f"the engine {engine.name} has: {known}")
        clinic = await self._registry.find(principal.clinic_id)
        if clinic is not None and clinic.languages and request.language not in clinic.languages:
            raise Unprocessable("language_not_available", f"this clinic uses: {', '.join(clinic.languages)}")
        if request.vocabulary is not None and not engine.vocabularies:
            raise Unprocessable("vocabulary_not_available", f"the engine {engine.name} has no vocabularies")
        if request.consent is not None and not request.consent.given:
            raise Unprocessable("consent_missing", "the patient's consent is recorded as not given")

    async def _create(self, principal: Principal, request: CreateSession) -> Admission:
        ref = SessionRef(principal.clinic_id, self._new_session_id())
        record = SessionRecord(
            session_id=ref.session_id,
            clinic_id=ref.clinic_id,
            created_at=self._deps.now(),
            created_by=principal.subject,
            **{f: getattr(request, f) for f in CreateSession.__struct_fields__},
        )
        try:
            await self._deps.store.create(session_key(ref), encode_record(record))
        except StoreUnavailable:
            self._deps.health.archive_answers = False
            raise
        history = await load_history(self._deps.store, ref)
        if history is None:
            raise StoreUnavailable(session_key(ref), "was written and cannot be read")
        item = archived_item(history)
        self._manager.orphans.watch(ref, self._deps.limits.created_seconds, history=history)
        try:
            await self._deps.index.put(item)
        except IndexUnavailable:
            raise Busy(
                "index_unavailable", "new sessions wait until Redis answers; try again", RETRY_AFTER_SECONDS
            ) from None
        self._herald.tell(item)
        return Admission(item, self._issue(principal, ref, "speaker", 0))

    async def _repeat(self, principal: Principal, held: Reservation, fingerprint: str) -> Admission:
        if held.fingerprint != fingerprint:
            raise Unprocessable("idempotency_key_reused", "this Idempotency-Key was used with another body")
        if held.session_id is None:
            raise IdempotencyInFlight("the first call with this Idempotency-Key is under way; try again")
        ref, history = await find_session(self._deps.store, principal.clinic_id, held.session_id)
        return Admission(
            archived_item(history), self._issue(principal, ref, "speaker", history.speaker_serial)
        )
