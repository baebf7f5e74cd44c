"""``python -m app token``: a bearer token of the development issuer, alone on standard output."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from typing import Final

from app.auth.principal import Scope
from app.bootstrap.folder import clinic_registry, development_issuer
from app.commands import Subparsers, folder_refused
from app.config import ConfigError, from_environment
from tenants.clinic import Clinic, ClinicId, parse_clinic_id
from tenants.registry import RegistryUnavailable

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST: Final = 30 * 86_400
_DEFAULT_SCOPES: Final = tuple(scope for scope in Scope if scope is not Scope.OPS)


def add_arguments(subparsers: Subparsers) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "token",
        help="print a development token",
        description="Prints a token of the development issuer and registers the clinic if it is not.",
    )
    parser.add_argument("--clinic", required=True, type=_clinic, metavar="ID", help="the clinic to act for")
    parser.add_argument("--sub", default="developer", type=_subject, metavar="NAME", help="who is calling")
    parser.add_argument(
        "--scope",
        action="append",
        type=_scopes,
        metavar="SCOPE",
        help="may be repeated; default: all but ops",
    )
    parser.add_argument(
        "--expires",
        default="1h",
        type=_seconds,
        metavar="TIME",
        help="such as 90s, 30m, 1h or 7d; default: 1h",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the token; 2 for wrong settings, 1 when the data folder or the register of clinics cannot be written."""
    try:
        settings = from_environment()
        issuer = development_issuer(settings)
        asyncio.run(clinic_registry(settings).add(Clinic(args.clinic)))
    except (ConfigError, RegistryUnavailable) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        print(folder_refused(error), file=sys.stderr)
        return 1
    scopes = sorted({scope for group in args.scope or [_DEFAULT_SCOPES] for scope in group})
    print(issuer.mint(args.sub, args.clinic, scopes, now=time.time(), lifetime_seconds=args.expires))
    return 0


def _clinic(text: str) -> ClinicId:
    clinic_id = parse_clinic_id(text)
    if clinic_id is None:
        raise argparse.ArgumentTypeError("1 to 63 characters of a-z, 0-9 and -, not beginning with -")
    return clinic_id


def _subject(text: str) -> str:
    if not text or len(text) > 255 or not text.isprintable():
        raise argparse.ArgumentTypeError("1 to 255 printable characters")
    return text


def _scopes(text: str) -> list[Scope]:
    try:
        return [Scope(word) for word in text.split()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"scopes are {', '.join(Scope)}") from None


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 1 <= seconds <= _LONGEST:
        raise argparse.ArgumentTypeError("a whole number and s, m, h or d, at most 30d")
    return seconds
