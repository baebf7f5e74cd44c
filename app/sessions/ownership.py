"""Who may write a session: an epoch created in the archive where none was.

The order of steps is what exactly-once rests on. Creating the epoch fences every older owner; only then is read what
they left; then the log is told, which stops their commits; then the base is written, which says where they are cut;
and only then is anything promised.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import takewhile

import msgspec

from app.archive.history import History
from app.archive.reader import list_names, load_history, read_epoch
from app.archive.records import Base, EpochRecord, encode_record, epoch_key, parse_epoch_name
from app.archive.store import (
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    Store,
    StoreUnavailable,
    Version,
    VersionConflict,
)
from app.auth.principal import AuthError
from app.auth.tickets import Ticket
from app.events.log import EventLog, LogUnavailable
from app.sessions.errors import SessionNotFound, Superseded
from app.sessions.log_tail import log_position
from app.telemetry.logs import logger
from audio.coverage import Ranges
from audio.transcript import CommittedFinal
from tenants.terms import SessionRef

CLAIM_ATTEMPTS = 20
"""How often a claim is tried against others who claim at the same moment."""

BASE_ATTEMPTS = 3
"""How often the base is written: the first time it may be there although the answer says otherwise."""

_log = logger(__name__)


@dataclass(frozen=True)
class Claimant:
    """Who wants the session. ``serial`` 0 is no speaker: a finisher."""

    task: str
    purpose: str
    now: str
    serial: int = 0
    ticket_id: str = ""
    subject: str = ""
    resume: bool = False

    @classmethod
    def speaker(cls, ticket: Ticket, task: str, now: str) -> Claimant:
        """The holder of a speaker's ticket."""
        return cls(task, "speaker", now, ticket.serial, ticket.ticket_id, ticket.subject, ticket.resume)


@dataclass(frozen=True)
class Claim:
    """A session owned from now on, until a newer epoch.

    ``history`` was read after the fence; ``adopted`` finals follow ``history.seq`` and are in the epoch's record. What
    is settled and was transcribed live includes them. ``log_at`` is the last final that the log has told of, at most the
    base's; None where the log must be told of this owner before anything is committed in it.
    """

    epoch: int
    history: History
    adopted: list[CommittedFinal]
    base: Base
    log_at: int | None


def judge_serial(held: int, serial: int, *, resume: bool) -> None:
    """The newest ticket wins. ``held`` is the serial of the ticket that was used last, 0 where none was.

    Raises:
        Superseded: a newer ticket has been used.
        AuthError: this very ticket has been used, and it is not one to resume with.
    """
    if serial < held:
        raise Superseded("a newer ticket is in use for this session; ask for a new one to take over")
    if serial == held and not resume:
        raise AuthError("ticket_used", "this ticket was used already; ask for a new one")


class _Overtaken(Exception):
    """A newer epoch came while claiming."""


async def claim(
    store: Store, log: EventLog, ref: SessionRef, claimant: Claimant, seen: History | None = None
) -> Claim:
    """Own a session from its end on. Of tickets that claim at the same moment the newest wins.

    ``seen`` is what the archive told just now: it spares reading that again. Everything is judged anew behind the fence.

    Raises:
        SessionNotFound: there is none.
        Superseded, AuthError: see ``judge_serial``; Superseded also when a newer epoch came while claiming.
        StoreError: the archive cannot be asked; an epoch without a base may be left, which means nothing.
    """
    for _ in range(CLAIM_ATTEMPTS):
        try:
            return await _claim(store, log, ref, claimant, seen)
        except _Overtaken:
            seen = None
            newest = await _newest_epoch(store, ref)
            if not newest or (await read_epoch(store, ref, newest)).serial >= claimant.serial:
                break
            # A finisher, or an older ticket that looked before this one was there.
            claimant = replace(claimant, resume=True)
    raise Superseded("another connection has taken over this session")


async def _claim(
    store: Store, log: EventLog, ref: SessionRef, claimant: Claimant, seen: History | None
) -> Claim:
    fence, version, known = await _create_epoch(store, ref, claimant, seen)
    epoch = fence.epoch
    history = await load_history(store, ref, known=known)
    if history is None:
        raise SessionNotFound
    if claimant.serial:
        # A newer ticket may have entered between the first look and the fence.
        judge_serial(history.speaker_serial, claimant.serial, resume=True)
    adopted, log_at = await _announce(log, ref, epoch, history, claimant.task)
    history = _with_adopted(history, adopted)
    base = Base(history.end, history.seq + len(adopted))
    record = msgspec.structs.replace(
        fence, base=base, finals=adopted, live=history.live, settled=history.settled
    )
    await _write_base(store, epoch_key(ref, epoch), record, version)
    if await _has_newer(store, ref, epoch):
        raise _Overtaken
    return Claim(epoch, history, adopted, base, log_at)


def _with_adopted(history: History, adopted: list[CommittedFinal]) -> History:
    # What is in a final was heard, whether or not its owner lived to archive that.
    live = Ranges.from_wire(history.live)
    for committed in adopted:
        live.add(committed.final.start, committed.final.end)
    heard = max((committed.final.end for committed in adopted), default=0)
    end = history.end if history.session.recording == "audio+transcript" else max(history.end, heard)
    return replace(history, end=end, live=list(live), settled=max(history.settled, heard))


async def _write_base(store: Store, key: str, record: EpochRecord, version: Version) -> None:
    data = encode_record(record)
    for attempt in range(1, BASE_ATTEMPTS + 1):
        try:
            await store.replace(key, data, version)
        except (StoreUnavailable, VersionConflict):
            if attempt == BASE_ATTEMPTS:
                raise
        else:
            return
        found = await store.read(key)
        if found.data == data:
            return
        version = found.version


async def confirm(store: Store, ref: SessionRef, epoch: int) -> None:
    """Check in the archive that no newer epoch was claimed.

    Raises:
        Superseded: one was.
        StoreUnavailable: it cannot be told now.
    """
    if await _has_newer(store, ref, epoch):
        raise Superseded("another connection has taken over this session")


async def _has_newer(store: Store, ref: SessionRef, epoch: int) -> bool:
    # A claim creates the epoch above all that there are, so the next one is there if any newer is: one small read tells.
    try:
        await store.read(epoch_key(ref, epoch + 1))
    except ObjectMissing:
        return False
    except ObjectCorrupt:
        _log.error("epoch_damaged", epoch=epoch + 1)  # and there all the same
    return True


async def _newest_epoch(store: Store, ref: SessionRef) -> int:
    names = await list_names(store, ref, "epochs/")
    return max((parse_epoch_name(n) or 0 for n in names), default=0)


async def is_lost(store: Store, ref: SessionRef, epoch: int) -> bool:
    """Whether a newer epoch is known to be there; False also while the archive does not answer."""
    try:
        await confirm(store, ref, epoch)
    except Superseded:
        return True
    except StoreUnavailable:
        return False
    return False


async def _create_epoch(
    store: Store, ref: SessionRef, claimant: Claimant, seen: History | None
) -> tuple[EpochRecord, Version, History]:
    """The claimant's epoch without a base, its version, and what of the session cannot change any more."""
    for _ in range(CLAIM_ATTEMPTS):
        history = seen or await load_history(store, ref, ends=False)
        if history is None:
            raise SessionNotFound
        if claimant.serial:
            judge_serial(history.speaker_serial, claimant.serial, resume=claimant.resume)
        epoch = history.newest_epoch + 1
        record = EpochRecord(
            epoch=epoch,
            task=claimant.task,
            purpose=claimant.purpose,
            claimed_at=claimant.now,
            serial=claimant.serial,
            ticket_id=claimant.ticket_id,
            subject=claimant.subject,
        )
        try:
            version = await store.create(epoch_key(ref, epoch), encode_record(record))
        except ObjectExists:
            seen = None
            continue
        based = [e for e in history.epochs if e.base is not None]
        return record, version, replace(history, epochs=(*based, record))
    raise Superseded("too many connections claim this session at once")


async def _announce(
    log: EventLog, ref: SessionRef, epoch: int, history: History, task: str
) -> tuple[list[CommittedFinal], int | None]:
    try:
        announced = await log.announce(ref, epoch, history.seq, task)
    except LogUnavailable:
        _log.warning("claimed_without_log", epoch=epoch)
        return [], None
    if announced is None:
        raise _Overtaken
    # The log may hold what an owner that it never heard of has cut.
    fence = history.fence
    adopted = list(takewhile(lambda final: fence.final_counts(final, final.epoch), announced.held))
    if len(adopted) < len(announced.held):
        return adopted, None
    return adopted, log_position(announced, history.seq + len(adopted), fence)
