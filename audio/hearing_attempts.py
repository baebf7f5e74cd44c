"""A session's streams, one after another: what people are told of their coming and going, and when a refusal is believed.

Pure: the clock's reading is passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from audio.engine import EngineError, Rejected
from audio.hearing import TranscriberSink

REFUSALS_MAX: Final = 2
"""An engine that refuses within a stream may mean that stream alone; one that refuses the next as well means the session."""


class Attempts:
    """One session's. An attempt begins with ``wanted``, may go on with ``opened``, and ends with ``ended``.

    An engine can refuse a stream after it was opened (Transcribe's WebSocket interface says all its refusals in the stream). So a
    stream counts as having *served* only when it reported something or lasted for ``waiting`` seconds; and until one has, the session
    goes on waiting.
    """

    def __init__(self, sink: TranscriberSink, *, waiting: float, healthy: float) -> None:
        """``waiting``: seconds without a stream after which ``engine_waiting`` is told. ``healthy``: a stream that lasts so long is well."""
        self._sink: Final = sink
        self._waiting: Final = waiting
        self._healthy: Final = healthy
        self._since: float | None = None
        self._told_waiting = False
        self._opened: float | None = None
        self._begins = 0
        self._settled = 0
        self._ever_served = False
        self._serving = False
        self._refusals = 0

    def wanted(self, now: float, has_room: Callable[[], bool]) -> None:
        """A stream will be asked for. Where there is no room for the first one, that is told at once."""
        if self._since is None:
            self._since = now
            self._told_waiting = False
            if not self._ever_served and not has_room():
                self._tell_waiting()
        self.look(now)

    def look(self, now: float) -> None:
        """Tell that it takes long while no stream is open, or that one lasts; to be called now and then."""
        if self._opened is not None:
            if now - self._opened >= self._waiting:
                self.serves()
        elif self._since is not None and now - self._since > self._waiting:
            self._tell_waiting()

    def opened(self, now: float, position: int, settled: int) -> None:
        """A stream is open and hears from ``position`` on; ``settled``: as of now."""
        self._opened = now
        self._begins = position
        self._settled = settled

    def serves(self) -> None:
        """The open stream is one indeed; to be called before what it reports first is passed on. Idempotent."""
        self._since = None
        if self._serving:
            return
        self._serving = True
        if self._ever_served:
            message = "speech recognition was started again and hears the audio from here anew"
            self._sink.on_notice("engine_restarted", message, self._begins, None)
        self._ever_served = True

    def ended(self, now: float, error: EngineError | None, *, reported: bool, settled: int) -> bool:
        """The stream is over; whether another one would be of no use, because the engine refuses the session."""
        self.look(now)
        lasted = now - self._opened if self._opened is not None else 0.0
        self._opened = None
        self._serving = False
        if (reported and settled > self._settled) or lasted >= self._healthy:
            self._refusals = 0
        self._refusals += isinstance(error, Rejected)
        return self._refusals >= REFUSALS_MAX

    def _tell_waiting(self) -> None:
        if not self._told_waiting:
            self._told_waiting = True
            message = "speech recognition waits for a free place; the audio is kept meanwhile"
            self._sink.on_notice("engine_waiting", message, None, None)
