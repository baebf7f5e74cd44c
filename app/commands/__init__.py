"""The command line, one module a command: each has ``add_arguments(subparsers)`` and ``run(args) -> int``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse names it nowhere else
else:
    Subparsers = object


def folder_refused(error: OSError) -> str:
    """What to tell a person whose data folder cannot be used."""
    return f"{error.filename or 'the data folder'}: {error.strerror}; KIKITORI_DATA_DIR names a folder to write to"
