"""``python -m app doctor``: what is wrong between the settings and the world, before a server starts."""

from __future__ import annotations

import argparse
import asyncio

from app.bootstrap.checks import doctor_checks
from app.commands import Subparsers
from app.config import ConfigError, Settings, from_environment


def add_arguments(subparsers: Subparsers) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="check the settings against Redis, the archive, the keys and the engine",
        description="Tries everything that a server needs, as it would use it, and says what is wrong and what to do. "
        "On S3 it puts probe objects under _doctor/ and deletes them. Exit 0 only without a FAIL, 2 for wrong settings.",
    )
    parser.set_defaults(run=run)


def run(_args: argparse.Namespace) -> int:
    """Print a line for each check, and one more for what to do; 0 without a FAIL, 1 with one, 2 for wrong settings."""
    try:
        return asyncio.run(_examine(from_environment()))
    except ConfigError as error:
        for problem in error.problems:
            sentence, _, advice = problem.partition("; ")
            _tell("FAIL", "settings", sentence, advice or "correct it; README.md lists the settings")
        return 2


async def _examine(settings: Settings) -> int:
    checks = doctor_checks(settings)
    chosen = len(settings.model_fields_set)
    _tell("ok", "settings", f"they can be read ({chosen} set; check-config shows them all)")
    failed = False
    async for finding in checks:
        failed = failed or finding.level == "FAIL"
        _tell(finding.level, finding.name, finding.sentence, finding.advice)
    return 1 if failed else 0


def _tell(level: str, name: str, sentence: str, advice: str = "") -> None:
    # At once: who waits wants to see which check takes its time.
    print(f"{level:4}  {name}: {sentence}", flush=True)
    if advice:
        print(f"      {advice}", flush=True)
