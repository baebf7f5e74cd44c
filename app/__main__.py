"""The command line: ``python -m app COMMAND``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from app.commands import check_config, serve, stream, token, verify

COMMANDS = (serve, token, stream, verify, check_config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m app", description="Kikitori: real-time transcription for clinics."
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_arguments(subparsers)
    args = parser.parse_args(arguments)
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
