"""What has happened, for tests to ask: counters, and of each stream what was heard and how it ended."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from typing import Any, Final

from loadtest.emulator.parameters import SAMPLE_RATE

MAX_ENTRIES: Final = 5000
"""So many streams are remembered; then the oldest that has ended is forgotten."""


class Entry:
    """One stream's account.

    Args:
        number: of the stream, counted from 1.
        session_id: its session.
        region: where it runs.
        wire: "http2" or "websocket".
        request_id: the answer's.
    """

    __slots__ = (
        "_digest", "chunks", "ended", "finals", "largest_chunk", "number", "partials", "region", "request_id", "samples",
        "session_id", "smallest_chunk", "wire",
    )  # fmt: skip

    def __init__(self, number: int, session_id: str, region: str, wire: str, request_id: str) -> None:
        self.number = number
        self.session_id = session_id
        self.region = region
        self.wire = wire
        self.request_id = request_id
        self.samples = self.chunks = self.partials = self.finals = 0
        self.smallest_chunk = self.largest_chunk = 0
        self.ended = ""
        self._digest = hashlib.sha256()

    def heard(self, pcm: bytes) -> None:
        """Count a chunk of audio."""
        size = len(pcm)
        self.samples += size >> 1
        self.chunks += 1
        self.largest_chunk = max(self.largest_chunk, size)
        if not 0 < self.smallest_chunk <= size:
            self.smallest_chunk = size
        self._digest.update(pcm)

    def told(self) -> dict[str, Any]:
        """The account as JSON; ``ended`` is empty while the stream is open."""
        return {
            "number": self.number,
            "session_id": self.session_id,
            "region": self.region,
            "wire": self.wire,
            "request_id": self.request_id,
            "open": not self.ended,
            "ended": self.ended,
            "samples": self.samples,
            "seconds": self.samples / SAMPLE_RATE,
            "sha256": self._digest.hexdigest(),
            "chunks": self.chunks,
            "smallest_chunk_bytes": self.smallest_chunk,
            "largest_chunk_bytes": self.largest_chunk,
            "partials": self.partials,
            "finals": self.finals,
        }


class Ledger:
    """The accounts of all streams."""

    def __init__(self) -> None:
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._number = 0
        self.refusals: dict[str, int] = {}
        self.open_connections = 0
        self.open_streams = 0
        self.highest_open_streams = 0
        self._forgotten_bytes = 0

    def open(self, session_id: str, region: str, wire: str, request_id: str) -> Entry:
        """Begin an account."""
        self._number += 1
        entry = Entry(self._number, session_id, region, wire, request_id)
        self._entries[self._number] = entry
        self.open_streams += 1
        self.highest_open_streams = max(self.highest_open_streams, self.open_streams)
        if len(self._entries) > MAX_ENTRIES:
            self._forget()
        return entry

    def refused(self, kind: str) -> None:
        """Count a request that became no stream."""
        self.refusals[kind] = self.refusals.get(kind, 0) + 1

    def close(self, entry: Entry, ended: str) -> None:
        """End an account, once: in what way the stream ended."""
        if not entry.ended:
            entry.ended = ended
            self.open_streams -= 1

    def sessions(self, session_id: str | None = None) -> list[dict[str, Any]]:
        """The accounts in order of their beginning, of one session or all."""
        return [entry.told() for entry in self._entries.values() if session_id in {None, entry.session_id}]

    def counters(self) -> dict[str, Any]:
        """The sums, and this process's CPU time."""
        entries = self._entries.values()
        return {
            "open_streams": self.open_streams,
            "highest_open_streams": self.highest_open_streams,
            "open_connections": self.open_connections,
            "starts": self._number,
            "refusals": self.refusals,
            "audio_bytes": self._forgotten_bytes + sum(entry.samples * 2 for entry in entries),
            "partials": sum(entry.partials for entry in entries),
            "finals": sum(entry.finals for entry in entries),
            "cpu_seconds": time.process_time(),
        }

    def _forget(self) -> None:
        oldest = next((number for number, entry in self._entries.items() if entry.ended), None)
        if oldest is not None:
            self._forgotten_bytes += self._entries.pop(oldest).samples * 2
