"""The engine that the settings ask for."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import SystemRandom
from typing import Any

from app.adapters.redis_client import Client
from app.adapters.redis_slots import RedisSlots
from app.config import Settings
from app.telemetry.metrics import Metrics
from audio.engine import Engine
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
    """The engine; nothing of it runs or is connected yet.

    Raises:
        ConfigError: its options contradict each other.
    """
    if settings.engine == "null":
        return Speech(NullEngine())
    if settings.engine == "pocketsphinx":
        local = PocketSphinxEngine(settings.pocketsphinx_workers)
        return Speech(local, (local.warm,))
    # Imported here: the AWS SDK takes 0.1 s, which the other engines need not spend.
    from app.bootstrap.transcribe import regions_of

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
