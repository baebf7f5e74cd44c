"""The doctor's checks of folders and of the master key. They make nothing and change nothing."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from app.adapters.doctor_finding import Check, Finding, fail, in_thread, ok, warn
from app.adapters.local_keys import MASTER_KEY_FILE, LocalKeys, MasterKeyRefused

FREE_WARN_BYTES: Final = 5 * 1024**3
FREE_FAIL_BYTES: Final = 100 * 1024**2
_GIB: Final = 1024**3


def folder_check(name: str, folder: Path, variable: str) -> Check:
    """Whether ``folder`` can be used, or made; ``variable`` is the setting that names it."""
    return _check(name, lambda: _folder(name, folder, variable))


def master_key_check(folder: Path, *, given: bool, shared: bool, holds_sessions: Callable[[], bool]) -> Check:
    """Whether there is a master key, or may be made one.

    Args:
        folder: the data folder.
        given: it is in the settings.
        shared: other tasks have the same sessions, and so need the same key.
        holds_sessions: whether there is an archive that only the right key opens.
    """
    name = "master key"
    return _check(name, lambda: _master_key(name, folder, given, shared, holds_sessions))


def free_space_check(name: str, folder: Path) -> Check:
    """Whether there is room."""
    return _check(name, lambda: _free_space(name, folder))


def _check(name: str, work: Callable[[], Finding]) -> Check:
    def careful() -> Finding:
        try:
            return work()
        except OSError as error:
            return fail(
                name, f"{error.filename or 'the disk'}: {error.strerror}", "see to the disk and its mount"
            )

    return Check(name, lambda: in_thread(careful))


def _folder(name: str, folder: Path, variable: str) -> Finding:
    there = _nearest(folder)
    advice = f"let {variable} name a folder that this user may write to, or change its owner"
    if not there.is_dir():
        return fail(name, f"{there} is no folder", advice)
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        return fail(name, f"{there} cannot be written to by this user", advice)
    if there != folder:
        return ok(name, f"{folder} is not there yet; it can be made")
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & stat.S_IWOTH:
        return warn(name, f"everybody may write to {folder} (mode {mode:04o})", f"run: chmod 700 {folder}")
    return ok(name, f"{folder} can be written to")


def _master_key(
    name: str, folder: Path, given: bool, shared: bool, holds_sessions: Callable[[], bool]
) -> Finding:
    if given:
        return ok(name, "it is in KIKITORI_MASTER_KEY")
    if not LocalKeys.has_file(folder):
        if holds_sessions():
            return fail(
                name,
                f"the archive holds sessions, and the key that opens them is not in {folder}",
                f"put the file {MASTER_KEY_FILE} back, or set KIKITORI_MASTER_KEY",
            )
        return ok(name, f"there is none yet; the first start makes {folder / MASTER_KEY_FILE}")
    try:
        LocalKeys.in_folder(folder)
    except MasterKeyRefused as error:
        problem, _, advice = str(error).partition("; ")
        return fail(name, problem, advice)
    if shared:
        return warn(
            name,
            "it is a file on this machine, and the archive and Redis are shared with others",
            "set KIKITORI_MASTER_KEY to the same value for all tasks, or let them share the data folder",
        )
    return ok(name, f"{folder / MASTER_KEY_FILE} is readable by its owner only")


def _free_space(name: str, folder: Path) -> Finding:
    free = shutil.disk_usage(_nearest(folder)).free
    words = f"{free / _GIB:.1f} GiB are free"
    if free < FREE_FAIL_BYTES:
        return fail(name, words, "make room: sessions cannot be recorded on a full disk")
    if free < FREE_WARN_BYTES:
        return warn(name, words, "make room: an hour of audio takes up to 0.12 GiB until it is finished")
    return ok(name, words)


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))
