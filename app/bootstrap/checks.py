"""What ``python -m app doctor`` asks the world."""

from __future__ import annotations

from collections.abc import AsyncIterator

from app.adapters.doctor import Doctor
from app.adapters.doctor_finding import Finding
from app.bootstrap.folder import clinic_registry, holds_sessions
from app.bootstrap.transcribe import regions_of
from app.config import Settings
from audio.engine import Engine
from audio.engines.pocketsphinx import PocketSphinxEngine


def doctor_checks(settings: Settings) -> AsyncIterator[Finding]:
    """What is wrong between the settings and the world, check by check; makes nothing that stays.

    Raises:
        ConfigError: at once: the options of the engine contradict each other.
    """
    engines: dict[str, Engine] = {}
    if settings.engine == "pocketsphinx":
        engines["engine"] = PocketSphinxEngine(1)
    if settings.engine == "aws":
        engines.update({f"transcribe {name}": region for name, region in regions_of(settings).items()})
    return Doctor(
        settings,
        clinic_registry(settings),
        engines,
        lambda: not settings.on_s3 and holds_sessions(settings.archive_path),
    ).findings()
