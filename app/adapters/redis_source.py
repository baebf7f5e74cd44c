"""EventSource on Redis: one connection for all the channels (in a cluster one for each node), and the log for the rest."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from app.adapters import redis_scripts as scripts
from app.adapters.redis_client import FAILURES, Client, time_limit
from app.adapters.redis_line import Line, LineMoved, LineSilent, LineUnused
from app.adapters.redis_log import PURPOSE, LogMessage, parse_message
from app.adapters.redis_servers import servers_of
from app.events.log import LogUnavailable
from app.events.model import PARTIAL, Bounds, Cursor, LivePartial, LogEvent
from app.events.source import Follower
from app.telemetry.logs import logger
from tenants.clinic import ClinicId
from tenants.keys import Sealer, Unsealable

READ_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 0.25
GRACE_SECONDS: Final = 0.3
"""How long a connection that was cut may take to come back before its followers are told; their gap is read either way."""

_LOST: Final = (*FAILURES, LineMoved, LineSilent)

_log = logger(__name__)


@dataclass
class _Followed:
    clinic_id: ClinicId
    follower: Follower
    server: str | None = None
    lost: bool = False
    told: bool = False


class RedisSource:
    """EventSource while ``run`` runs; reads work without it. Whoever made the client closes it."""

    def __init__(self, client: Client, sealer: Sealer, *, read_seconds: float = READ_SECONDS) -> None:
        self._client = client
        self._sealer = sealer
        self._read_seconds = read_seconds
        self._servers = servers_of(client)
        self._followed: dict[bytes, _Followed] = {}
        self._lines: dict[str, Line] = {}
        self._changed = asyncio.Event()

    def follow(self, clinic_id: ClinicId, follower: Follower) -> None:
        self._followed[_channel(clinic_id)] = _Followed(clinic_id, follower)
        self._changed.set()

    def unfollow(self, clinic_id: ClinicId) -> None:
        followed = self._followed.pop(_channel(clinic_id), None)
        if followed is not None and followed.server in self._lines:
            line = self._lines[followed.server]
            line.wanted.discard(_channel(clinic_id))
            line.wake.set()

    async def bounds(self, clinic_id: ClinicId) -> Bounds:
        key = scripts.log_key(clinic_id)
        async with time_limit(self._read_seconds, LogUnavailable):
            newest: Any = await self._client.xrevrange(key, count=1)
            oldest: Any = await self._client.xrange(key, count=1)
        if not oldest or not newest:
            return Bounds()
        first = self._entry(clinic_id, *oldest[0])
        return Bounds(first.prev, first.cursor, Cursor.parse(newest[0][0].decode()))

    async def after(self, clinic_id: ClinicId, cursor: Cursor, limit: int) -> list[LogEvent]:
        key = scripts.log_key(clinic_id)
        async with time_limit(self._read_seconds, LogUnavailable):
            entries: Any = await self._client.xrange(key, min=f"({cursor}", count=limit)
        return [self._entry(clinic_id, name, fields) for name, fields in entries]

    async def run(self) -> None:
        """Listen for all who follow, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._changed.wait()
                self._changed.clear()
                try:
                    await self._assign(group)
                except LogUnavailable:
                    self._tell_lost()
                    await asyncio.sleep(RETRY_SECONDS)
                    self._changed.set()

    def subscribed(self, channel: bytes) -> None:
        """See Listener."""
        followed = self._followed.get(channel)
        if followed is not None:
            followed.lost = followed.told = False
            followed.follower.joined()

    def published(self, channel: bytes, data: bytes) -> None:
        """See Listener."""
        followed = self._followed.get(channel)
        if followed is None:
            return
        try:
            event = self._heard(followed.clinic_id, parse_message(data))
        except ValueError:
            _log.warning("message_unreadable")
            return
        followed.follower.heard(event)

    async def _assign(self, group: asyncio.TaskGroup) -> None:
        for channel, followed in list(self._followed.items()):
            if followed.server is not None:
                continue
            server = await self._server_of(channel)
            if self._followed.get(channel) is not followed:
                continue
            line = self._lines.get(server)
            if line is None:
                line = self._lines[server] = self._new_line(server)
                group.create_task(self._keep(server, line))
            followed.server = server
            line.wanted.add(channel)
            line.wake.set()
            if line.hears(channel):
                self.subscribed(channel)

    async def _server_of(self, channel: bytes) -> str:
        server = self._servers.of(channel.decode())
        if server is None:
            await self._refresh(None)
            server = self._servers.of(channel.decode())
        if server is None:
            raise LogUnavailable("no server has the channel")
        return server

    def _new_line(self, server: str) -> Line:
        sharded = self._servers.publish == "SPUBLISH"
        return Line(lambda: self._servers.connection(server), self, sharded=sharded)

    async def _keep(self, server: str, line: Line) -> None:
        try:
            await line.run()
        except* LineUnused:
            pass
        except* _LOST as lost:
            if line.was_up:
                _log.warning("subscription_lost", reason=type(lost.exceptions[0]).__name__)
            self._lost(server, at_once=not line.was_up or lost.subgroup(LineSilent) is not None)
            await self._find_again(server, pause=not line.was_up)
        finally:
            del self._lines[server]
            for followed in self._followed.values():
                if followed.server == server:
                    followed.server = None
            self._changed.set()

    def _lost(self, server: str, *, at_once: bool) -> None:
        for followed in self._followed.values():
            followed.lost |= followed.server == server
        if at_once:
            self._tell_lost()
        else:
            asyncio.get_running_loop().call_later(GRACE_SECONDS, self._tell_lost)

    def _tell_lost(self) -> None:
        for followed in self._followed.values():
            if (followed.lost or followed.server is None) and not followed.told:
                followed.told = True
                followed.follower.left()

    async def _find_again(self, failed: str, *, pause: bool) -> None:
        if pause:
            await asyncio.sleep(RETRY_SECONDS)
        try:
            await self._refresh(failed)
        except LogUnavailable as failure:
            _log.debug("servers_unknown", reason=str(failure))

    async def _refresh(self, failed: str | None) -> None:
        async with time_limit(self._read_seconds, LogUnavailable):
            await self._servers.refresh(failed)

    def _entry(self, clinic_id: ClinicId, name: bytes, fields: dict[bytes, bytes]) -> LogEvent:
        try:
            prev, session_id, kind = (fields[word].decode("ascii") for word in (b"prev", b"session", b"kind"))
            seq, epoch = int(fields[b"seq"]), int(fields[b"epoch"])
            entry = LogMessage(name.decode("ascii"), prev, session_id, kind, seq, epoch, fields[b"body"])
            return self._event(clinic_id, entry)
        except (KeyError, ValueError):
            raise LogUnavailable("an entry of another form") from None

    def _heard(self, clinic_id: ClinicId, message: LogMessage) -> LogEvent | LivePartial:
        if message.kind != PARTIAL:
            return self._event(clinic_id, message)
        body = self._opened(clinic_id, message.session_id, message.body)
        return LivePartial(message.session_id, message.epoch, body)

    def _event(self, clinic_id: ClinicId, entry: LogMessage) -> LogEvent:
        return LogEvent(
            Cursor.parse(entry.cursor),
            Cursor.parse(entry.prev),
            entry.session_id,
            entry.kind,
            entry.seq,
            entry.epoch,
            self._opened(clinic_id, entry.session_id, entry.body) if entry.body else b"",
        )

    def _opened(self, clinic_id: ClinicId, session_id: str, body: bytes) -> bytes:
        try:
            return self._sealer.unseal(clinic_id, session_id, PURPOSE, body)
        except Unsealable:
            _log.warning("event_does_not_open")
            return b""


def _channel(clinic_id: ClinicId) -> bytes:
    return scripts.events_channel(clinic_id).encode()
