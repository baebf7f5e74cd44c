"""Blocking file calls with the promises that the disk store needs of them."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

_LOCK_SECONDS: Final = 10.0
_LOCK_PAUSES: Final = (0.001, 0.05)

Identity = tuple[int, int]
"""What tells a folder from another that later has the same path."""


class LockBusy(Exception):
    """A lock was held by others for ten seconds."""


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data``: one ``os.write`` may take less than it was given, on a disk that fills up for one."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def flock(fd: int, kind: int) -> None:
    """Take the lock (``fcntl.LOCK_SH`` or ``LOCK_EX``) of an open file; closing the file gives it back.

    Raises:
        LockBusy: see there. (A process that is stopped with the lock in its hands must not hold up all others' threads.)
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    pause, longest = _LOCK_PAUSES
    while True:
        try:
            return fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LockBusy from None
        time.sleep(pause)
        pause = min(longest, pause * 2)


def sync_folder(folder: Path) -> Identity:
    """Make the folder's entries durable; which folder it was."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
        return identity(os.fstat(fd))
    finally:
        os.close(fd)


def identity(state: os.stat_result) -> Identity:
    """See ``Identity``."""
    return state.st_dev, state.st_ino


def remove_empty(folder: Path) -> bool:
    """Remove ``folder`` if it is one and nothing is in it; whether it is gone."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    return True


def remove_unlocked(path: str) -> None:
    """Remove a file that nobody has locked; one that cannot be removed stays."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Path(path).unlink()
        finally:
            os.close(fd)
