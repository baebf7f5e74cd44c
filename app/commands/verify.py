"""``python -m app verify CLINIC/SESSION``: re-reads an archive, its hashes and its coverage."""

from __future__ import annotations

import argparse
import asyncio
import sys

from app.archive.records import RecordCorrupt
from app.archive.store import StoreError
from app.archive.verify import Verdict, verify
from app.bootstrap.storage import archive
from app.commands import Subparsers, folder_refused
from app.config import ConfigError, Settings, from_environment
from audio.coverage import Ranges
from audio.pcm import seconds_of
from tenants.clinic import parse_clinic_id
from tenants.keys import KeysError
from tenants.terms import SessionRef, is_session_id


def add_arguments(subparsers: Subparsers) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "verify",
        help="re-read a session's archive",
        description="Reads every object of a session again: hashes, order of finals, coverage. Exit 0 only without a fault.",
    )
    parser.add_argument("session", type=_ref, metavar="CLINIC/SESSION")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Verify; 0 without a fault, 1 with one or where there is no such session, 2 for wrong settings."""
    try:
        verdict = asyncio.run(_verify(from_environment(), args.session))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except (StoreError, RecordCorrupt, KeysError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(folder_refused(error), file=sys.stderr)
        return 1
    if verdict is None:
        print("there is no such session in this archive", file=sys.stderr)
        return 1
    print(_report(args.session, verdict))
    return 1 if verdict.faults else 0


async def _verify(settings: Settings, ref: SessionRef) -> Verdict | None:
    async with archive(settings) as store:
        return await verify(store, ref)


def _report(ref: SessionRef, verdict: Verdict) -> str:
    lines = [
        f"{ref.clinic_id}/{ref.session_id}: {'finished' if verdict.finished else 'not finished'}",
        f"  {verdict.samples} samples ({seconds_of(verdict.samples):.1f} s), {verdict.finals} finals",
        f"  {verdict.archived:.2%} archived",
    ]
    for name, pairs in verdict.coverage.items():
        total = Ranges.from_wire(pairs).total()
        lines.append(
            f"  {name:13} {seconds_of(total):9.1f} s in {len(pairs)} range{'' if len(pairs) == 1 else 's'}"
        )
    lines += [f"  FAULT: {fault}" for fault in verdict.faults] or ["  no fault found"]
    return "\n".join(lines)


def _ref(text: str) -> SessionRef:
    clinic, _, session = text.partition("/")
    clinic_id = parse_clinic_id(clinic)
    if clinic_id is None or not is_session_id(session):
        raise argparse.ArgumentTypeError("such as demo/01920000-0000-7000-8000-000000000000")
    return SessionRef(clinic_id, session)
