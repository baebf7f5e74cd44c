"""The composition root: settings in, services out. The only place where adapters and engines are built."""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import Any

import uuid6
from redis.asyncio import Redis

from app.adapters.dev_issuer import AUDIENCE, ISSUER, DevIssuer
from app.adapters.disk_store import DiskStore
from app.adapters.doctor import Doctor
from app.adapters.doctor_finding import Finding
from app.adapters.embedded_redis import EmbeddedRedis, EmbeddedRedisBusy
from app.adapters.file_registry import FileRegistry
from app.adapters.local_keys import LocalKeys, MasterKeyRefused
from app.adapters.redis_client import redis_client
from app.adapters.redis_index import RedisSessionIndex
from app.adapters.redis_log import RedisEventLog
from app.adapters.redis_process import RedisStartFailed
from app.adapters.redis_slots import RedisSlots
from app.adapters.s3_credentials import StsScope
from app.adapters.s3_place import S3Place, clinic_policy
from app.adapters.s3_store import S3Store
from app.archive.store import Store, StoreUnavailable
from app.auth.tickets import Tickets
from app.auth.tokens import JwtVerifier
from app.config import ConfigError, Settings
from app.services import Services
from app.sessions.admission import Desk
from app.sessions.catalog import Catalog
from app.sessions.deps import SessionDeps, SessionLimits
from app.sessions.herald import Herald
from app.sessions.manager import SessionManager
from app.sessions.recovery import Recovery
from app.telemetry.metrics import Metrics
from audio.engine import Engine
from audio.engines.aws import AwsRegion
from audio.engines.aws_credentials import BotocoreCredentials
from audio.engines.aws_options import AwsOptions
from audio.engines.null import NullEngine
from audio.engines.pocketsphinx import PocketSphinxEngine
from audio.engines.regional import RegionalEngine
from audio.slots import RegionLimits
from tenants.clinic import ClinicId

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
    found = LocalKeys.has_file(settings.data_dir)
    if not found and not settings.on_s3 and _holds_sessions(settings.archive_path):
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


@asynccontextmanager
async def archive(settings: Settings) -> AsyncIterator[Store]:
    """The archive that is there, for commands that read it; makes nothing.

    Raises:
        MasterKeyRefused, StoreUnavailable: see there; also where there is no archive or no key to it.
    """
    if settings.on_s3:
        async with _bucket(settings, clinic_registry(settings)) as bucket:
            yield bucket
        return
    if not settings.archive_path.is_dir():
        raise StoreUnavailable(
            str(settings.archive_path), "there is no archive; KIKITORI_DATA_DIR says where it is"
        )
    if settings.master_key is None and not LocalKeys.has_file(settings.data_dir):
        raise MasterKeyRefused(f"{settings.data_dir} holds no master key; KIKITORI_DATA_DIR says where it is")
    async with DiskStore(settings.archive_path, keys_of(settings)) as store:
        yield store


@asynccontextmanager
async def _bucket(settings: Settings, registry: FileRegistry) -> AsyncIterator[Store]:
    place, region = S3Place.parse(settings.archive_url), settings.aws_regions[0]

    def kms_key_of(clinic: str) -> str | None:
        known = registry.known(ClinicId(clinic))
        return known.kms_key if known is not None and known.kms_key else settings.kms_key

    async with AsyncExitStack() as stack:
        scope = None
        if settings.s3_role_arn is not None:
            scope = StsScope(
                settings.s3_role_arn,
                lambda clinic: clinic_policy(place, clinic, kms_key_of(clinic)),
                region=region,
                endpoint=settings.sts_endpoint,
            )
            await scope.start()
            stack.push_async_callback(scope.close)
        store = S3Store(
            place, region=region, kms_key_of=kms_key_of, endpoint=settings.s3_endpoint, scope=scope
        )
        yield await stack.enter_async_context(store)


@dataclass(frozen=True)
class _Speech:
    """An engine, and what runs beside the sessions for it."""

    engine: Engine
    beside: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = ()


def _speech(settings: Settings, redis: Redis) -> _Speech:
    if settings.engine == "null":
        return _Speech(NullEngine())
    if settings.engine == "pocketsphinx":
        local = PocketSphinxEngine(settings.pocketsphinx_workers)
        return _Speech(local, (local.warm,))
    limits = RegionLimits(settings.transcribe_streams, settings.transcribe_starts)
    slots = RedisSlots(
        redis,
        dict.fromkeys(settings.aws_regions, limits),
        holder=f"{settings.task_id[:64].replace(':', '.')}-{secrets.token_hex(4)}",
        rng=SystemRandom(),
    )
    regions = _regions(settings)
    return _Speech(RegionalEngine(regions, slots, clock=time.monotonic, rng=SystemRandom()), (slots.run,))


def _regions(settings: Settings) -> dict[str, AwsRegion]:
    credentials, context = BotocoreCredentials(), ssl.create_default_context()
    return {
        region: AwsRegion(
            region,
            endpoint=settings.transcribe_endpoint,
            options=_aws_options(settings),
            credentials=credentials,
            context=context,
        )
        for region in settings.aws_regions
    }


def _aws_options(settings: Settings) -> AwsOptions:
    languages = settings.transcribe_language_options
    try:
        return AwsOptions(
            language_options=languages,
            code_switching=bool(languages),
            vocabulary_filter=settings.transcribe_vocabulary_filter,
            vocabulary_filter_method="mask" if settings.transcribe_vocabulary_filter else None,
            stability=settings.transcribe_stability,
            identify_pii=settings.transcribe_identify_pii,
        )
    except ValueError as error:
        raise ConfigError([f"KIKITORI_TRANSCRIBE_LANGUAGE_OPTIONS: {error}"]) from None


def doctor_checks(settings: Settings) -> AsyncIterator[Finding]:
    """What is wrong between the settings and the world, check by check; makes nothing that stays.

    Raises:
        ConfigError: at once: the options of the engine contradict each other.
    """
    engines: dict[str, Engine] = {}
    if settings.engine == "pocketsphinx":
        engines["engine"] = PocketSphinxEngine(1)
    if settings.engine == "aws":
        engines.update({f"transcribe {name}": region for name, region in _regions(settings).items()})
    return Doctor(
        settings,
        clinic_registry(settings),
        engines,
        lambda: not settings.on_s3 and _holds_sessions(settings.archive_path),
    ).findings()


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
        opened = _bucket(settings, registry) if settings.on_s3 else DiskStore(settings.archive_path, keys)
        store: Store = await stack.enter_async_context(opened)
        url = settings.redis_url
        if url == "embedded":
            url = (await stack.enter_async_context(EmbeddedRedis(settings.data_dir))).url
        redis = redis_client(url)
        stack.push_async_callback(redis.aclose)
        speech = _speech(settings, redis)
        engine = speech.engine
        stack.push_async_callback(engine.close)
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
            regions_of=lambda clinic: known.regions if (known := registry.known(clinic)) is not None else (),
        )
        herald = Herald(deps.index, deps.log)
        manager = SessionManager(deps, tickets, herald)
        recovery = Recovery(deps, manager)
        await stack.enter_async_context(manager.running(recovery.run, *speech.beside))
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
