"""``python -m app check-config``: every setting with its value and origin, or every mistake."""

from __future__ import annotations

import argparse
import sys

from app.commands import Subparsers
from app.config import ConfigError, Settings, from_environment, variable


def add_arguments(subparsers: Subparsers) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "check-config",
        help="check the settings",
        description="Prints every setting with where it comes from (secrets as ***), or everything that is wrong.",
    )
    parser.set_defaults(run=run)


def run(_args: argparse.Namespace) -> int:
    """Print the settings and return 0, or the mistakes, to standard error, and return 2."""
    try:
        settings = from_environment()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    width = max(len(variable(name)) for name in Settings.model_fields)
    for name in Settings.model_fields:
        origin = "environment" if name in settings.model_fields_set else "default"
        print(f"{variable(name):{width}}  {settings.display(name)}  ({origin})")
    return 0
