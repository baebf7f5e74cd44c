"""Who may write a session: an epoch created in the archive where none was.

The order of steps is what exactly-once rests on. Creating the epoch fences every older owner; only then is read what
they left; then the log is told, which stops their commits; then the base is written, which says where they are cut;
and only then is anything promised.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.archive.history import History
from app.archive.reader import list_names, load_history
from app.archive.records import Base, EpochRecord, encode_record, epoch_key, parse_epoch_name
from app.archive.store import ObjectExists, Store
from app.auth.principal import AuthError
from app.events.log import EventLog, LogUnavailable
from app.sessions.errors import SessionNotFound, Superseded
from app.telemetry.logs import logger
from audio.transcript import CommittedFinal
from tenants.terms import SessionRef

CLAIM_ATTEMPTS = 20
"""How often a claim is tried against others who claim at the same moment."""

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


@dataclass(frozen=True)
class Claim:
    """A session owned from now on, until a newer epoch.

    ``history`` was read after the fence; ``adopted`` finals follow ``history.seq`` and are in the epoch's record.
    """

    epoch: int
    history: History
    adopted: list[CommittedFinal]
    base: Base


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


async def claim(store: Store, log: EventLog, ref: SessionRef, claimant: Claimant) -> Claim:
    """Own a session from its end on.

    Raises:
        SessionNotFound: there is none.
        Superseded, AuthError: see ``judge_serial``; Superseded also when a newer epoch came while claiming.
        StoreError: the archive cannot be asked; an epoch without a base may be left, which means nothing.
    """
    epoch = await _create_epoch(store, ref, claimant)
    history = await load_history(store, ref)
    if history is None:
        raise SessionNotFound
    adopted = await _announce(log, ref, epoch, history.seq, claimant.task)
    base = Base(history.end, history.seq + len(adopted))
    record = _record(epoch, claimant, base, adopted, history)
    key = epoch_key(ref, epoch)
    found = await store.read(key)
    await store.replace(key, encode_record(record), found.version)
    await confirm(store, ref, epoch)
    return Claim(epoch, history, adopted, base)


async def confirm(store: Store, ref: SessionRef, epoch: int) -> None:
    """Check in the archive that no newer epoch was claimed.

    Raises:
        Superseded: one was.
        StoreUnavailable: it cannot be told now.
    """
    names = await list_names(store, ref, "epochs/")
    if max((parse_epoch_name(n) or 0 for n in names), default=0) > epoch:
        raise Superseded("another connection has taken over this session")


async def _create_epoch(store: Store, ref: SessionRef, claimant: Claimant) -> int:
    for _ in range(CLAIM_ATTEMPTS):
        history = await load_history(store, ref)
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
            await store.create(epoch_key(ref, epoch), encode_record(record))
        except ObjectExists:
            continue
        return epoch
    raise Superseded("too many connections claim this session at once")


def _record(
    epoch: int, claimant: Claimant, base: Base, adopted: list[CommittedFinal], history: History
) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        task=claimant.task,
        purpose=claimant.purpose,
        claimed_at=claimant.now,
        serial=claimant.serial,
        ticket_id=claimant.ticket_id,
        subject=claimant.subject,
        base=base,
        finals=adopted,
        live=history.live,
        settled=history.settled,
    )


async def _announce(log: EventLog, ref: SessionRef, epoch: int, seq: int, task: str) -> list[CommittedFinal]:
    try:
        pending = await log.announce(ref, epoch, seq, task)
    except LogUnavailable:
        _log.warning("claimed_without_log", epoch=epoch)
        return []
    if pending is None:
        raise Superseded("another connection has taken over this session")
    return pending
