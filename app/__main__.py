"""The command line: ``python -m app COMMAND``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = ("serve", "token", "stream", "verify", "check-config", "doctor")


def main(arguments: Sequence[str]) -> int:
    """Run a command and return its exit status. Only the module of that command is imported: the others are slow to."""
    parser = argparse.ArgumentParser(
        prog="python -m app", description="Kikitori: real-time transcription for clinics."
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in arguments[:1] if arguments and arguments[0] in COMMANDS else COMMANDS:
        importlib.import_module(f"app.commands.{name.replace('-', '_')}").add_arguments(subparsers)
    args = parser.parse_args(arguments)
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
