"""A running server: everything it needs, built in order and given back in the opposite one."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import uuid6

from app.adapters.dev_issuer import AUDIENCE, ISSUER
from app.adapters.disk_store import DiskStore
from app.adapters.embedded_redis import EmbeddedRedis, EmbeddedRedisBusy
from app.adapters.file_registry import FileRegistry
from app.adapters.redis_batch import RedisBatch
from app.adapters.redis_client import Client, any_client
from app.adapters.redis_index import RedisSessionIndex
from app.adapters.redis_log import RedisEventLog
from app.adapters.redis_process import RedisStartFailed
from app.adapters.redis_servers import servers_of
from app.adapters.redis_source import RedisSource
from app.adapters.redis_tickets import RedisTicketEntries
from app.archive.store import Store
from app.auth.tickets import Tickets
from app.auth.tokens import JwtVerifier
from app.bootstrap.folder import clinic_registry, development_issuer, keys_of
from app.bootstrap.speech import speech_of
from app.bootstrap.storage import in_bucket
from app.config import Settings
from app.events.hub import Hub, HubLimits
from app.events.log import LogUnavailable
from app.services import Services
from app.sessions.admission import Desk
from app.sessions.catalog import Catalog
from app.sessions.deps import SessionDeps, SessionLimits
from app.sessions.herald import Herald
from app.sessions.manager import SessionManager
from app.sessions.recovery import Recovery
from app.telemetry.metrics import Metrics
from audio.engine import Engine

StartFailed = (EmbeddedRedisBusy, RedisStartFailed)
"""What may keep a server from starting besides its settings, its keys and its archive."""

TICKET_KEY_PURPOSE = "tickets"


@asynccontextmanager
async def services(settings: Settings) -> AsyncIterator[Services]:
    """Everything a server needs, built in order and given back in the opposite one.

    Sessions are released first, while all they need is still there.

    Raises:
        ConfigError, MasterKeyRefused, StoreUnavailable, EmbeddedRedisBusy, RedisStartFailed: nothing was left running.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        metrics = Metrics()
        keys = keys_of(settings)
        registry, issuer = clinic_registry(settings), development_issuer(settings)
        opened = in_bucket(settings, registry) if settings.on_s3 else DiskStore(settings.archive_path, keys)
        store: Store = await stack.enter_async_context(opened)
        # The log has a client of its own: commits wait for nothing else, and nothing else closes their connections.
        redis, log_redis = await _redis(settings, stack)
        speech = speech_of(settings, redis, metrics)
        engine = speech.engine
        stack.push_async_callback(engine.close)
        tickets = Tickets(keys.derive(TICKET_KEY_PURPOSE), time.time)
        batch = RedisBatch(servers_of(log_redis), LogUnavailable)
        log = RedisEventLog(batch, keys)
        deps = _deps(
            settings,
            store=store,
            log=log,
            index=RedisSessionIndex(redis, keys),
            engine=engine,
            metrics=metrics,
            registry=registry,
        )
        herald = Herald(deps.index, deps.log)
        manager = SessionManager(deps, tickets, herald)
        recovery = Recovery(deps, manager)
        source = RedisSource(redis, keys)
        limits = HubLimits(settings.max_observers, settings.max_clinic_observers)
        hub = Hub(source, metrics, limits=limits)
        await stack.enter_async_context(
            manager.running(recovery.run, batch.run, source.run, hub.run, *speech.beside)
        )
        yield Services(
            settings=settings,
            tokens=JwtVerifier(issuer, ISSUER, AUDIENCE, registry, time.time),
            tickets=tickets,
            entries=RedisTicketEntries(redis),
            hub=hub,
            registry=registry,
            desk=Desk(
                deps,
                manager,
                tickets,
                herald=herald,
                registry=registry,
                new_session_id=lambda: str(uuid6.uuid7()),
            ),
            catalog=Catalog(deps, manager, recovery),
            manager=manager,
            store=store,
            metrics=metrics,
            engine=engine.capabilities,
            clock=time.monotonic,
        )


async def _redis(settings: Settings, stack: AsyncExitStack) -> tuple[Client, Client]:
    """Two clients of the server that the settings name, or of one that runs as long as ``stack``, which closes them."""
    url = settings.redis_url
    if url == "embedded":
        url = (await stack.enter_async_context(EmbeddedRedis(settings.data_dir))).url
    clients = any_client(url), any_client(url)
    for client in clients:
        stack.push_async_callback(client.aclose)
    return clients


def _deps(
    settings: Settings,
    *,
    store: Store,
    log: RedisEventLog,
    index: RedisSessionIndex,
    engine: Engine,
    metrics: Metrics,
    registry: FileRegistry,
) -> SessionDeps:
    return SessionDeps(
        task=settings.task_id,
        boot=secrets.token_hex(8),
        store=store,
        log=log,
        publisher=log,
        board=log,
        index=index,
        engine=engine,
        metrics=metrics,
        limits=SessionLimits(
            max_sessions=settings.max_sessions,
            segment_seconds=settings.segment_seconds,
            resume_window_seconds=settings.resume_window_seconds,
            drain_seconds=settings.drain_seconds,
        ),
        clock=time.monotonic,
        wall=time.time,
        regions_of=lambda clinic: known.regions if (known := registry.known(clinic)) is not None else (),
    )
