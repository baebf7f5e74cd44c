"""What the endpoints may use: one frozen record, filled by ``app.bootstrap`` and by nobody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.archive.store import Store
from app.auth.entries import TicketEntries
from app.auth.principal import TokenVerifier
from app.auth.tickets import Tickets
from app.config import Settings
from app.events.hub import Hub
from app.sessions.admission import Desk
from app.sessions.catalog import Catalog
from app.sessions.manager import SessionManager
from app.telemetry.metrics import Metrics
from audio.engine import EngineCapabilities
from tenants.registry import ClinicRegistry


@dataclass(frozen=True)
class Services:
    """``clock`` is monotonic, in seconds."""

    settings: Settings
    tokens: TokenVerifier
    tickets: Tickets
    entries: TicketEntries
    hub: Hub
    registry: ClinicRegistry
    desk: Desk
    catalog: Catalog
    manager: SessionManager
    store: Store
    metrics: Metrics
    engine: EngineCapabilities
    clock: Callable[[], float]
