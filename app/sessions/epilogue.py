"""What a speaker meets who comes to a finished session: the finals it missed, ``completed``, the end."""

from __future__ import annotations

from collections.abc import Callable

from app.archive.history import History
from app.archive.reader import read_finals
from app.auth.principal import AuthError
from app.auth.tickets import Ticket
from app.protocol.messages import Notice, Ready
from app.sessions.deps import SessionDeps, unix_time
from app.sessions.ending import Ending
from app.sessions.errors import SessionNotFound
from app.sessions.link import Link
from app.sessions.ownership import judge_serial
from app.sessions.views import completed_message
from tenants.terms import SessionRef


class Epilogue:
    """Tells ends again. Nothing is claimed for it, so it works on any task, as often as it is asked."""

    def __init__(self, deps: SessionDeps) -> None:
        self._deps = deps
        self._entered: dict[str, float] = {}

    def may_reopen(self, history: History) -> bool:
        """Whether the session ended only because its speaker stayed away, and not too long ago."""
        manifest = history.manifest
        if manifest is None or manifest.reason != Ending.ABANDONED:
            return False
        return self._deps.wall() - unix_time(manifest.finished_at) < self._deps.limits.reopen_seconds

    async def link(
        self, ref: SessionRef, history: History, ticket: Ticket, after: int, wake: Callable[[], None]
    ) -> Link:
        """A link that has everything to say already.

        Raises:
            SessionNotFound: the session has no end to tell.
            Superseded, AuthError: the ticket is not one to enter with.
        """
        manifest = history.manifest
        if manifest is None:
            raise SessionNotFound
        self._enter_once(history, ticket)
        missed = await read_finals(self._deps.store, ref, history, after)
        link = Link(
            serial=ticket.serial, missed=missed, cursor=manifest.finals, now=self._deps.clock(), wake=wake
        )
        if after > manifest.finals:
            link.notice(rewound(manifest.finals))
        link.complete(completed_message(manifest))
        return link

    def ready(self, ref: SessionRef, history: History, resume_ticket: str) -> Ready:
        """The first message: there is nothing to send any more."""
        epoch = history.manifest.epoch if history.manifest is not None else 0
        config = {"language": history.session.language, "recording": history.session.recording}
        return Ready(ref.session_id, history.end, 0, epoch, resume_ticket, config, {})

    def _enter_once(self, history: History, ticket: Ticket) -> None:
        # No epoch remembers a ticket that claims nothing; one for a single entry lives for a minute.
        now = self._deps.wall()
        self._entered = {used: until for used, until in self._entered.items() if until > now}
        judge_serial(history.speaker_serial, ticket.serial, resume=ticket.resume)
        if ticket.resume:
            return
        if ticket.ticket_id in self._entered:
            raise AuthError("ticket_used", "this ticket was used already; ask for a new one")
        self._entered[ticket.ticket_id] = ticket.expires_at


def rewound(seq: int) -> Notice:
    """The notice that withdraws finals after ``seq``."""
    return Notice("finals_rewound", f"finals after {seq} were lost and will come again", seq=seq)
