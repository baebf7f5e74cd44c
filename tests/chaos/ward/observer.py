"""Somebody who watches a clinic, by the contract alone, and comes back with a cursor whenever the connection ends."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.chaos.ward.browser import Browser, Refused
from tests.chaos.ward.line import Line
from tests.chaos.ward.speaker import Speaker
from tests.chaos.ward.voice import Final

BACKOFF = (0.1, 2.0)
SUBSCRIBED_SECONDS = 15.0
COME_BACK = {1001, 1006, 1011, 1012, 4408, 4410, 4411, 4500, 4503}
BEGINNING = "0-0"


@dataclass
class Observer:
    """``run`` watches until cancelled.

    Attributes:
        lossy: Redis may lose what it acknowledged. Its owner then tells it again, and a final may come a second time.
        finals: by session, those that hold; ``heard`` has when each came.
        expired: how often its cursor was older than the log. It then begins anew, and what it knows may come once more.
        twice: finals that came a second time for either reason.
    """

    browser: Browser
    random: Random
    lossy: bool = False
    finals: dict[str, list[Final]] = field(default_factory=lambda: defaultdict(list))
    states: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    faults: list[str] = field(default_factory=list)
    cursor: str = BEGINNING
    connections: int = 0
    partials: int = 0
    expired: int = 0
    twice: int = 0
    closes: Counter[int] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    notices: Counter[str] = field(default_factory=Counter)
    heard: dict[tuple[str, int], float] = field(default_factory=dict)
    line: Line | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _replaying: bool = False

    async def run(self) -> None:
        """Watch, and come back, until cancelled."""
        attempts = 0
        while True:
            asked, before = 0.0, self.cursor
            try:
                await self._watch()
            except Refused as refused:
                self.refusals[f"{refused.status} {refused.code}".strip()] += 1
                if refused.status not in (0, 401, 429, 502, 503, 504):
                    self.faults.append(f"refused: {refused.status} {refused.code}")
                asked = refused.retry_after
            finally:
                self.line = None
                self.ready.clear()
            attempts = 0 if self.cursor != before else attempts + 1
            first, last = BACKOFF
            await asyncio.sleep(
                min(last, first * 2.0 ** min(attempts, 8)) * self.random.uniform(0.5, 1.0) + asked
            )

    def drop(self) -> None:
        """Reset the connection, if there is one."""
        if self.line is not None:
            self.line.drop("dropped")

    async def has(self, speakers: list[Speaker], seconds: float) -> list[str]:
        """Wait until it was told of each final that these were; what is still wrong then."""
        until = time.monotonic() + seconds
        while (wrong := self._differs(speakers)) and (left := until - time.monotonic()) > 0:
            self.changed.clear()
            try:
                async with asyncio.timeout(left):
                    await self.changed.wait()
            except TimeoutError:
                break
        return wrong + self.faults

    def _differs(self, speakers: list[Speaker]) -> list[str]:
        wrong = []
        for speaker in speakers:
            mine, theirs = self.finals[speaker.session], speaker.finals
            if mine != theirs:
                same = next(
                    (n for n, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), "the end"
                )
                wrong.append(
                    f"{speaker.session}: {len(mine)} finals of {len(theirs)} ({speaker.rewinds} rewinds), as told up to {same}"
                )
        return wrong

    async def _watch(self) -> None:
        ticket = await self.browser.json("POST", "/v1/clinic/tickets")
        line = self.line = Line(self._hear)
        await self.browser.open(f"{ticket['streamUrl']}?after={self.cursor}", line, ticket["ticket"])
        self.connections += 1
        await line.over.wait()
        code = 0 if line.dropped else line.code
        self.closes[code] += 1
        if code and code not in COME_BACK:
            self.faults.append(f"closed with {code}")

    def _hear(self, line: Line, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "subscribed":
            line.ready = True
            self.ready.set()
        elif kind == "final":
            self._on_final(message)
        elif kind == "partial":
            self.partials += 1
        elif kind == "notice":
            self._on_notice(message)
        elif kind == "error" and message["code"] == "cursor_expired":
            self.expired += 1
            self.cursor, self._replaying = BEGINNING, True
        elif kind.startswith("session."):
            self.states[message["sessionId"]].append(kind)
        if kind != "subscribed" and "cursor" in message:
            self.cursor = message["cursor"]
        self.changed.set()

    def _on_final(self, message: dict[str, Any]) -> None:
        session, had = message["sessionId"], self.finals[message["sessionId"]]
        final = Final(message["seq"], message["id"], message["start"], message["end"], message["text"])
        if final.seq == len(had) + 1:
            had.append(final)
            self.heard[session, final.seq] = time.monotonic()
        elif final.seq > len(had):
            self.faults.append(
                f"{session}: final {final.seq} after {len(had)}, cursor {message.get('cursor')}"
            )
            had.extend([final] * (final.seq - len(had)))
        elif had[final.seq - 1] != final:
            self.faults.append(f"{session}: another final {final.seq}")
        elif self._replaying or self.lossy:
            self.twice += 1
        else:
            self.faults.append(f"{session}: final {final.seq} twice, cursor {message.get('cursor')}")

    def _on_notice(self, message: dict[str, Any]) -> None:
        self.notices[message["code"]] += 1
        if message["code"] == "finals_rewound":
            del self.finals[message["sessionId"]][message["seq"] :]
