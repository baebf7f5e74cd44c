"""The composition root: settings in, services out. The only place where adapters and engines are built."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import uuid6

from app.adapters.dev_issuer import AUDIENCE, ISSUER, DevIssuer
from app.adapters.disk_store import DiskStore
from app.adapters.embedded_redis import EmbeddedRedis, EmbeddedRedisBusy
from app.adapters.file_registry import FileRegistry
from app.adapters.local_keys import LocalKeys, MasterKeyRefused
from app.adapters.redis_client import redis_client
from app.adapters.redis_index import RedisSessionIndex
from app.adapters.redis_log import RedisEventLog
from app.adapters.redis_process import RedisStartFailed
from app.archive.store import Store, StoreUnavailable
from app.auth.tickets import Tickets
from app.auth.tokens import JwtVerifier
from app.config import Settings
from app.services import Services
from app.sessions.admission import Desk
from app.sessions.catalog import Catalog
from app.sessions.deps import SessionDeps, SessionLimits
from app.sessions.herald import Herald
from app.sessions.manager import SessionManager
from app.sessions.recovery import Recovery
from app.telemetry.metrics import Metrics
from audio.engine import Engine
from audio.engines.null import NullEngine
from audio.engines.pocketsphinx import PocketSphinxEngine

StartFailed = (EmbeddedRedisBusy, RedisStartFailed)
"""What may keep a server from starting besides its settings, its keys and its archive."""

TICKET_KEY_PURPOSE = "tickets"


def keys_of(settings: Settings) -> LocalKeys:
    """The keeper of keys: from the setting, else from a file in the data folder, made where there is none.

    Raises:
        MasterKeyRefused: the file is not as it must be.
    """
    master = settings.master_key_bytes
    if master is not None:
        return LocalKeys(master)
    if not LocalKeys.has_file(settings.data_dir) and _holds_sessions(settings.archive_path):
        raise MasterKeyRefused(
            f"{settings.archive_path} holds sessions, and the master key that opens them is not in {settings.data_dir}: "
            "put the file back, or set KIKITORI_MASTER_KEY"
        )
    return LocalKeys.in_folder(settings.data_dir)


def _holds_sessions(archive: Path) -> bool:
    return archive.is_dir() and any(not entry.name.startswith(".") for entry in archive.iterdir())


def clinic_registry(settings: Settings) -> FileRegistry:
    """The register of clinics."""
    return FileRegistry(settings.clinics_path)


def development_issuer(settings: Settings) -> DevIssuer:
    """The issuer of the data folder, made where there is none.

    Raises:
        ConfigError: its key cannot be made or read.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return DevIssuer.open(settings.data_dir)


def engine_of(settings: Settings) -> Engine:
    """The engine that the settings name; nothing is started yet."""
    if settings.engine == "null":
        return NullEngine()
    return PocketSphinxEngine(settings.pocketsphinx_workers)


@asynccontextmanager
async def archive(settings: Settings) -> AsyncIterator[Store]:
    """The archive that is there, for commands that read it; makes nothing.

    Raises:
        MasterKeyRefused, StoreUnavailable: see there; also where there is no archive or no key to it.
    """
    if not settings.archive_path.is_dir():
        raise StoreUnavailable(
            str(settings.archive_path), "there is no archive; KIKITORI_DATA_DIR says where it is"
        )
    if settings.master_key is None and not LocalKeys.has_file(settings.data_dir):
        raise MasterKeyRefused(f"{settings.data_dir} holds no master key; KIKITORI_DATA_DIR says where it is")
    async with DiskStore(settings.archive_path, keys_of(settings)) as store:
        yield store


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
        store = await stack.enter_async_context(DiskStore(settings.archive_path, keys))
        url = settings.redis_url
        if url == "embedded":
            url = (await stack.enter_async_context(EmbeddedRedis(settings.data_dir))).url
        redis = redis_client(url)
        stack.push_async_callback(redis.aclose)
        engine = engine_of(settings)
        stack.push_async_callback(engine.close)
        beside = [engine.warm] if isinstance(engine, PocketSphinxEngine) else []
        registry, issuer = clinic_registry(settings), development_issuer(settings)
        tickets = Tickets(keys.derive(TICKET_KEY_PURPOSE), time.time)
        deps = SessionDeps(
            task=settings.task_id,
            store=store,
            log=RedisEventLog(redis, keys),
            index=RedisSessionIndex(redis, keys),
            engine=engine,
            metrics=metrics,
            limits=SessionLimits(
                max_sessions=settings.max_sessions,
                segment_seconds=settings.segment_seconds,
                resume_window_seconds=settings.resume_window_seconds,
            ),
            clock=time.monotonic,
            wall=time.time,
        )
        herald = Herald(deps.index, deps.log)
        manager = SessionManager(deps, tickets, herald)
        recovery = Recovery(deps, manager)
        await stack.enter_async_context(manager.running(recovery.run, *beside))
        yield Services(
            settings=settings,
            tokens=JwtVerifier(issuer, ISSUER, AUDIENCE, registry, time.time),
            tickets=tickets,
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
