"""One stream of audio and results, whatever carries it: the rules, the latency, the faults that strike within it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from loadtest.emulator.faults import Fault, FaultKind
from loadtest.emulator.ledger import Entry
from loadtest.emulator.parameters import SAMPLE_RATE, Parameters
from loadtest.emulator.problems import TIMED_OUT, TOO_BIG, Kind, ServiceError, bad_request
from loadtest.emulator.render import Renderer, exception_frame
from loadtest.emulator.speech import Hearing, Utterance

MAX_CHUNK_BYTES: Final = min(32 * 1024, SAMPLE_RATE * 2)
"""32 KB and 1 s, whichever is less."""
_NEVER: Final = 1 << 62


class Cut(StrEnum):
    """Ways in which a connection ends that are not an orderly end."""

    DROP = "drop"
    TCP_RST = "tcp-rst"
    RST_STREAM = "rst-stream"
    GOAWAY = "goaway"


class Wire(Protocol):
    """What carries a stream. None of these raises, whatever state the connection is in."""

    def event(self, message: bytes) -> None:
        """Send one event-stream message."""

    def finish(self) -> None:
        """End the stream cleanly, after all that was sent."""

    def cut(self, how: Cut) -> None:
        """End the connection otherwise, at once."""

    def hold(self, *, reading: bool) -> None:
        """Stop reading from the client, or go on."""


class Timer(Protocol):
    """A call that has not been made yet."""

    def cancel(self) -> None: ...


class Timers(Protocol):
    """The clock of a stream."""

    def time(self) -> float:
        """Seconds, monotonic."""
        ...

    def horizon(self) -> float:
        """What is due until then is due now."""
        ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        """Call back at a time, or soon when it is past."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """The limits of a stream.

    Attributes:
        latency: seconds from the end of what is heard to its result.
        idle: seconds without audio that end it.
        longest: seconds that a stream may last, of time or of audio.
    """

    latency: float = 0.07
    idle: float = 15.0
    longest: float = 4 * 3600.0


class Stream:
    """A stream that has been let in.

    Args:
        wire: what carries it.
        parameters: what the client asked for.
        entry: its account.
        rules: its limits.
        timers: its clock.
        on_end: called once, with the way it ended.
    """

    def __init__(
        self,
        *,
        wire: Wire,
        parameters: Parameters,
        entry: Entry,
        rules: Rules,
        timers: Timers,
        on_end: Callable[[str], None],
    ) -> None:
        self.parameters = parameters
        self.entry = entry
        self._wire = wire
        self._rules = rules
        self._timers = timers
        self._on_end = on_end
        self._hearing = Hearing(self._tell)
        self._renderer = Renderer(parameters)
        self._began = self._last_audio = timers.time()
        self._latency = rules.latency
        self._bytes_per_second = 0
        self._muted = self._ending = self._ended = False
        self._held_until = self._stalled_until = 0.0
        self._reading_again: Timer | None = None
        # One per result that is due; they end with the stream, and a client that does not take them is not read from.
        self._due: deque[tuple[float, bytes | None]] = deque()
        self._timer: Timer | None = None
        self._fault: Fault | None = None
        self._fault_at = _NEVER

    def arm(self, fault: Fault) -> None:
        """Have ``fault`` strike when so much audio has been heard; it replaces any other."""
        self._fault, self._fault_at = fault, fault.after_samples
        if self.entry.samples >= self._fault_at:
            self._strike()

    def audio(self, pcm: bytes) -> None:
        """Audio has come; none of it means that no more will."""
        if self._ending:
            return
        size = len(pcm)
        if not size:
            self._end_of_audio()
            return
        if size > MAX_CHUNK_BYTES or size % 2:
            self.fail(bad_request(TOO_BIG if size > MAX_CHUNK_BYTES else "Half a sample is no audio."))
            return
        entry = self.entry
        entry.heard(pcm)
        self._last_audio = now = self._timers.time()
        self._hearing.feed(pcm)
        if entry.samples >= self._fault_at:
            self._strike()
        if self._bytes_per_second:
            self._pause(max(now, self._held_until) + size / self._bytes_per_second)

    def fail(self, error: ServiceError) -> None:
        """End with an exception."""
        if not self._ended:
            self._wire.event(exception_frame(error))
            self._close(error.kind)

    def lost(self, how: str = "lost by the client") -> None:
        """The connection is gone."""
        self._over(how)

    def check(self, now: float) -> None:
        """The rules that time alone breaks; to be called several times a second."""
        longest = self._rules.longest
        if now - self._began > longest or self.entry.samples > longest * SAMPLE_RATE:
            self.fail(
                ServiceError(Kind.LIMIT_EXCEEDED, "Your stream has exceeded the maximum session duration.")
            )
        elif now - max(self._last_audio, self._held_until) > self._rules.idle and not self._ending:
            self.fail(bad_request(TIMED_OUT))

    def _end_of_audio(self) -> None:
        self._ending = True
        self._hearing.finish()
        if not self._muted:
            self._post(None)

    def _tell(self, utterance: Utterance, *, final: bool) -> None:
        if self._muted:
            return
        if final:
            self.entry.finals += 1
            self._post(self._renderer.final(utterance))
        else:
            self.entry.partials += 1
            self._post(self._renderer.partial(utterance))

    def _post(self, message: bytes | None) -> None:
        """Send ``message`` in its time, never before one posted earlier; None is the clean end."""
        due = self._timers.time() + self._latency
        if self._due:
            due = max(due, self._due[-1][0])
        self._due.append((due, message))
        if self._timer is None:
            self._timer = self._timers.call_at(max(due, self._stalled_until), self._deliver)

    def _deliver(self) -> None:
        self._timer = None
        due, horizon = self._due, self._timers.horizon()
        while due and not self._ended:
            when = max(due[0][0], self._stalled_until)
            if when > horizon:
                self._timer = self._timers.call_at(when, self._deliver)
                return
            message = due.popleft()[1]
            if message is None:
                self._close("finished")
            else:
                self._wire.event(message)

    def _close(self, how: str) -> None:
        self._over(how)
        self._wire.finish()

    def _over(self, how: str) -> None:
        if self._ended:
            return
        self._ended = self._ending = True
        self._due.clear()
        for timer in (self._timer, self._reading_again):
            if timer is not None:
                timer.cancel()
        self._timer = self._reading_again = None
        self._on_end(how)

    def _pause(self, until: float) -> None:
        """Read nothing until then."""
        if self._ended or until <= self._held_until:
            return
        self._held_until = until
        self._wire.hold(reading=False)
        if self._reading_again is not None:
            self._reading_again.cancel()
        self._reading_again = self._timers.call_at(until, self._read_again)

    def _read_again(self) -> None:
        self._reading_again = None
        self._wire.hold(reading=True)

    def _strike(self) -> None:
        fault, self._fault, self._fault_at = self._fault, None, _NEVER
        if fault is None or self._ended:
            return
        match fault.kind:
            case FaultKind.DROP | FaultKind.TCP_RST | FaultKind.RST_STREAM | FaultKind.GOAWAY:
                self._over(f"fault: {fault.kind}")
                self._wire.cut(Cut(fault.kind.value))
            case FaultKind.EXCEPTION:
                self.fail(fault.error)
            case FaultKind.CLOSE:
                self._close("fault: close")
            case _:
                self._suffer(fault)

    def _suffer(self, fault: Fault) -> None:
        """The faults that a stream survives."""
        now = self._timers.time()
        match fault.kind:
            case FaultKind.SLOW:
                self._latency = self._rules.latency * fault.factor
                self._bytes_per_second = fault.bytes_per_second
            case FaultKind.STALL:
                self._stalled_until = now + fault.seconds
                self._pause(self._stalled_until)
            case FaultKind.SILENCE:
                self._muted = True
                self._due.clear()
                if fault.seconds:
                    self._timers.call_at(now + fault.seconds, self._unmute)
            case _:
                raise AssertionError(f"{fault.kind} strikes only before a stream")

    def _unmute(self) -> None:
        self._muted = False
        if self._ending:
            self._post(None)
