"""What sessions are built from: ports, clocks and limits, passed in once."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from app.archive.store import Store
from app.events.log import EventLog, OwnerBoard, Publisher
from app.sessions.health import Health
from app.sessions.index import SessionIndex
from app.sessions.pulse import Pulse
from app.telemetry.metrics import Metrics
from audio.engine import Engine
from tenants.clinic import ClinicId


@dataclass(frozen=True)
class SessionLimits:
    """Times in seconds.

    Attributes:
        max_sessions: live sessions of this task.
        created_seconds: after which a session in which nobody spoke is cancelled.
        reopen_seconds: for which the speaker of an abandoned session may reopen it.
        end_seconds: how long an ending session waits for the engine's last finals.
        release_seconds: how long a session may take to become durable before a newer connection gives up on it.
        drain_seconds: over which a task that goes away spreads the release of its sessions.
    """

    max_sessions: int = 500
    segment_seconds: float = 5.0
    resume_window_seconds: float = 120.0
    created_seconds: float = 600.0
    reopen_seconds: float = 24 * 3600.0
    end_seconds: float = 45.0
    release_seconds: float = 10.0
    drain_seconds: float = 20.0


@dataclass(frozen=True)
class SessionDeps:
    """Shared by all sessions of a task. ``clock`` is monotonic, ``wall`` is Unix time, both in seconds.

    ``boot`` tells this life of the task from others under the same name; it is hexadecimal.
    ``regions_of`` names the regions in which a clinic's speech may be transcribed; none means any.
    """

    task: str
    boot: str
    store: Store
    log: EventLog
    publisher: Publisher
    board: OwnerBoard
    index: SessionIndex
    engine: Engine
    metrics: Metrics
    limits: SessionLimits
    clock: Callable[[], float]
    wall: Callable[[], float]
    rng: random.Random = field(default_factory=random.Random)
    health: Health = field(default_factory=Health)
    pulse: Pulse = field(default_factory=Pulse)
    regions_of: Callable[[ClinicId], tuple[str, ...]] = lambda _: ()

    def now(self) -> str:
        """The time of day as RFC 3339 in UTC, to the millisecond."""
        return rfc3339(self.wall())


def rfc3339(seconds: float) -> str:
    """Unix time as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unix_time(text: str) -> float:
    """RFC 3339 as Unix time.

    Raises:
        ValueError: it is none.
    """
    return datetime.fromisoformat(text).timestamp()
