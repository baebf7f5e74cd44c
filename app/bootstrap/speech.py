"""The engine that the settings ask for."""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import SystemRandom
from typing import Any

from app.adapters.redis_client import Client
from app.adapters.redis_slots import RedisSlots
from app.config import ConfigError, Settings
from app.telemetry.metrics import Metrics
from audio.engine import Engine
from audio.engines.aws import AwsRegion
from audio.engines.aws_credentials import BotocoreCredentials
from audio.engines.aws_options import AwsOptions
from audio.engines.null import NullEngine
from audio.engines.pocketsphinx import PocketSphinxEngine
from audio.engines.regional import RegionalEngine
from audio.slots import RegionLimits


@dataclass(frozen=True)
class Speech:
    """An engine, and what runs beside the sessions for it."""

    engine: Engine
    beside: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = ()


def speech_of(settings: Settings, redis: Client, metrics: Metrics) -> Speech:
    """The engine; nothing of it runs or is connected yet."""
    if settings.engine == "null":
        return Speech(NullEngine())
    if settings.engine == "pocketsphinx":
        local = PocketSphinxEngine(settings.pocketsphinx_workers)
        return Speech(local, (local.warm,))
    limits = RegionLimits(settings.transcribe_streams, settings.transcribe_starts)
    slots = RedisSlots(
        redis,
        dict.fromkeys(settings.aws_regions, limits),
        holder=f"{settings.task_id[:64].replace(':', '.')}-{secrets.token_hex(4)}",
        rng=SystemRandom(),
    )
    metrics.engine_waiting.set_function(lambda: slots.stats.waiting)
    regions = regions_of(settings)
    return Speech(RegionalEngine(regions, slots, clock=time.monotonic, rng=SystemRandom()), (slots.run,))


def regions_of(settings: Settings) -> dict[str, AwsRegion]:
    """Amazon Transcribe in each region of the settings, in their order.

    Raises:
        ConfigError: the options contradict each other.
    """
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
