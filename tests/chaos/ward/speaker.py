"""Somebody who speaks into a session, by the contract alone, and notes every breach of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.chaos.ward.browser import Browser, Refused
from tests.chaos.ward.line import Line
from tests.chaos.ward.voice import RATE, Final, Mark, Voice
from tests.support.haproxy import COOKIE

FRAME = 1_600
"""Samples of 100 ms, the pace of a microphone."""

CATCH_UP = 16_000
"""Samples of a frame with which somebody who was cut off makes up for it."""

SILENCE_SECONDS = 3.0
READY_SECONDS = 15.0
PING_SECONDS = 1.0
STOP_SECONDS = 2.0
BACKOFF = (0.1, 5.0)
RETRYABLE = {1001, 1006, 1011, 1012, 4408, 4413, 4500, 4503}


@dataclass
class Speaker:
    """``run`` speaks until ``stop``; the clock that calls ``tick`` every 100 ms is shared by all.

    Attributes:
        since: what the times of faults count from.
        faults: what broke the contract, in words that say nothing of what was said.
        finals: those that hold.
        position, durable, shown: what was sent last, what is safe, and the end of the newest caption.
        spoken_to: where it ended, once ``stop`` was called.
        again: seconds from each mark to the first caption of something not shown before.
        without: the longest time that it had no connection which was ready.
        errors, closes, refusals, notices: what it was told, how often.
    """

    browser: Browser
    voice: Voice
    offset: int
    random: Random
    since: float
    name: str = ""
    session: str = ""
    faults: list[str] = field(default_factory=list)
    finals: list[Final] = field(default_factory=list)
    position: int = 0
    highest: int = 0
    durable: int = 0
    shown: int = 0
    epoch: int = 0
    rewinds: int = 0
    connections: int = 0
    captions: int = 0
    spoken_to: int | None = None
    completed: dict[str, Any] | None = None
    again: list[float] = field(default_factory=list)
    without: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    closes: Counter[int] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    notices: Counter[str] = field(default_factory=Counter)
    line: Line | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""
    first_ticket: str = ""
    resume_ticket: str = ""
    _began: float | None = None
    _limit: int = 0
    _received: int = 0
    _stopped: float = 0.0
    _mark: Mark | None = None
    _away: float | None = None

    @property
    def task(self) -> str:
        """The task that the balancer's cookie names."""
        return self.browser.jar.get(COOKIE)

    async def run(self) -> None:
        """Create a session and speak in it until it is completed, however often connections break."""
        attempts, progress = 0, (0, 0)
        while not self.completed:
            asked = await self._attempt()
            if (self.durable, len(self.finals)) != progress:
                attempts, progress = 0, (self.durable, len(self.finals))
            first, last = BACKOFF
            backoff = min(last, first * 2.0 ** min(attempts, 10)) * self.random.uniform(0.5, 1.0)
            attempts += 1
            if not self.completed:
                await asyncio.sleep(backoff + asked)

    def stop(self) -> None:
        """End here: what was spoken up to now is all."""
        if self.spoken_to is None:
            self.spoken_to = self._spoken(time.monotonic())

    def mark(self, *, anew: bool, from_end: bool = False) -> None:
        """From now until the next caption of something new is a time of interest.

        Args:
            anew: on another connection only.
            from_end: not from now, but from the end of the present connection.
        """
        self._mark = Mark(time.monotonic(), self.shown, self.line if anew else None, from_end)

    def tick(self, *, late: bool) -> None:
        """Send what has been spoken meanwhile; ``late``: this process was held up, so silence proves nothing."""
        line, now = self.line, time.monotonic()
        if line is None or line.over.is_set():
            return
        if now - line.heard > (SILENCE_SECONDS if line.ready else READY_SECONDS) and not late:
            line.drop("silence")
        elif line.ready:
            self._speak(line, now)

    @property
    def marked(self) -> bool:
        """Whether nothing new has been shown since the mark."""
        return self._mark is not None

    def state(self) -> str:
        """For a failure's text."""
        line = "none" if self.line is None else f"ready {self.line.ready}"
        return (
            f"{self.session or 'no session'}@{self.task}: sent {self.position}, durable {self.durable}, end {self.spoken_to}, "
            f"{len(self.finals)} finals, epoch {self.epoch}, line {line}, {self.connections} connections, closes {dict(self.closes)}, "
            f"refusals {dict(self.refusals)}, errors {dict(self.errors)}, notices {dict(self.notices)}, faults {self.faults}"
        )

    def _fault(self, what: str) -> None:
        self.faults.append(f"at {time.monotonic() - self.since:.1f} {what}")

    # One connection ------------------------------------------------------------------------------

    async def _attempt(self) -> float:
        """Returns how long the server asked to wait before the next."""
        line = Line(self._hear)
        try:
            ticket = await self._ticket()
            self.line = line
            await self.browser.open(f"{self.url}?after={len(self.finals)}", line, ticket)
        except Refused as refused:
            self.line = None
            return self._refused(refused)
        self.connections += 1
        await line.over.wait()
        self.line = None
        self.ready.clear()
        if self._mark is not None and self._mark.from_end and self._mark.line is line:
            self._mark = self._mark._replace(moment=time.monotonic(), shown=self.shown)
        if self._away is None:
            self._away = time.monotonic()
        code = line.code
        self.closes[0 if line.dropped else code] += 1
        if not line.dropped and not self.completed and code not in RETRYABLE:
            self._fault(f"closed with {code}")
        return (line.reconnect_ms or 0) / 1000

    async def _ticket(self) -> str:
        if not self.session:
            key = f"{self.offset}-{self.name}-{self.random.getrandbits(64):x}"
            body = {"language": "en-US", "title": self.name}
            created = await self.browser.json("POST", "/v1/sessions", body, Idempotency_Key=key)
            self.session, self.url, self.first_ticket = (
                created["sessionId"],
                created["streamUrl"],
                created["ticket"],
            )
        if self.resume_ticket:
            return self.resume_ticket
        if self.first_ticket:
            ticket, self.first_ticket = self.first_ticket, ""
            return ticket
        issued = await self.browser.json("POST", f"/v1/sessions/{self.session}/tickets", {"role": "speaker"})
        return str(issued["ticket"])

    def _refused(self, refused: Refused) -> float:
        self.refusals[f"{refused.status} {refused.code}".strip()] += 1
        if refused.status == 401:
            self.resume_ticket = ""
        elif refused.status not in (0, 409, 429, 502, 503, 504):
            self._fault(f"refused: {refused.status} {refused.code}")
        return refused.retry_after

    # What is sent --------------------------------------------------------------------------------

    def _spoken(self, now: float) -> int:
        if self._began is None:
            return 0
        return int((now - self._began) * RATE)

    def _speak(self, line: Line, now: float) -> None:
        until = self._spoken(now) if self.spoken_to is None else self.spoken_to
        while self.position < until:
            size = min(CATCH_UP, until - self.position, self._limit - self.position)
            if size < min(FRAME, until - self.position):
                break
            if self.spoken_to is None:
                size -= size % FRAME
            if size <= 0:
                break
            line.audio(self.voice.said(self.offset, self.position, self.position + size))
            self.position += size
            self.highest = max(self.highest, self.position)
        if self.position == self.spoken_to and now - self._stopped > STOP_SECONDS:
            self._stopped = now
            line.say({"type": "stop", "position": self.position})
        if now - line.said > PING_SECONDS:
            line.say({"type": "ping", "id": self.connections})

    # What is heard -------------------------------------------------------------------------------

    def _hear(self, line: Line, message: dict[str, Any]) -> None:
        match message["type"]:
            case "ready":
                self._on_ready(line, message)
            case "ack":
                self._on_ack(message)
            case "partial":
                self._caption(line, message["end"])
            case "final":
                self._on_final(line, message)
            case "notice":
                self.notices[message["code"]] += 1
                if message["code"] == "finals_rewound":
                    self.rewinds += 1
                    del self.finals[message["seq"] :]
            case "draining":
                line.reconnect_ms = message["reconnectInMs"]
            case "error":
                self.errors[message["code"]] += 1
            case "completed":
                self._on_completed(message)
            case _:
                pass

    def _on_ready(self, line: Line, message: dict[str, Any]) -> None:
        position, now = message["position"], time.monotonic()
        if line.ready:
            self._fault("ready twice")
        if not self.durable <= position <= self.highest:
            self._fault(f"ready at {position}: durable {self.durable}, sent {self.highest}")
        if message["epoch"] < self.epoch:
            self._fault(f"epoch {message['epoch']} after {self.epoch}")
        line.ready = True
        self.epoch, self.resume_ticket = message["epoch"], message["resumeTicket"]
        self.position = self._received = position
        self._limit = position + message["window"]
        self._stopped = 0.0
        if self._began is None:
            self._began = now
        if self._away is not None:
            self.without = max(self.without, now - self._away)
            self._away = None
        self.ready.set()

    def _on_ack(self, message: dict[str, Any]) -> None:
        received, durable, limit = (
            message["received"],
            message["durable"],
            message["received"] + message["window"],
        )
        if not self.durable <= durable <= received <= self.position or received < self._received:
            self._fault(f"ack {received}, {durable}: had {self._received}, {self.durable}")
        if limit < self._limit:
            self._fault(f"window drawn back from {self._limit} to {limit}")
        self._received, self.durable, self._limit = received, max(durable, self.durable), limit

    def _on_final(self, line: Line, message: dict[str, Any]) -> None:
        final = Final(message["seq"], message["id"], message["start"], message["end"], message["text"])
        if final.seq != len(self.finals) + 1:
            self._fault(f"final {final.seq} after {len(self.finals)}")
            return
        self.finals.append(final)
        self._caption(line, final.end)

    def _on_completed(self, message: dict[str, Any]) -> None:
        self.completed = message
        if (message["samples"], message["finals"]) != (self.spoken_to, len(self.finals)):
            self._fault(
                f"completed with {message['samples']} samples, {message['finals']} finals; "
                f"spoke {self.spoken_to}, was told {len(self.finals)}"
            )

    def _caption(self, line: Line, end: int) -> None:
        self.captions += 1
        mark = self._mark
        if mark is not None and end > mark.shown and line is not mark.line:
            self.again.append(time.monotonic() - mark.moment)
            self._mark = None
        self.shown = max(self.shown, end)
