"""A file system that is really full after a little: for tests of what happens when the disk is.

``tiny_disk()`` finds a way that this machine permits, in this order:

1. as root, a tmpfs mounted for the test (``mount``);
2. without root, a tmpfs mounted in a user namespace of its own by a helper process; tests reach it through
   ``/proc/<helper>/root``. Do not resolve that path (``Path.resolve``): it would lead out of the namespace;
3. ``/dev/shm`` where it is small (64 MiB in most containers), filled up with ballast but for the asked size.

Each holds for other processes of the same user too, so a server can be pointed at it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

MEBIBYTE = 1024 * 1024
BALLAST_MAX = 512 * MEBIBYTE
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a private folder is made in it


class NotPermitted(Exception):
    """This way of making a file system is closed here."""


@contextmanager
def tiny_disk(size: int = MEBIBYTE) -> Iterator[Path]:
    """An empty folder on a file system with about ``size`` bytes; gone afterwards.

    Where no way is open the test is skipped with one plain line, or fails in CI.
    """
    refusals = []
    with ExitStack() as held:
        for way in WAYS:
            try:
                folder = held.enter_context(way(size))
            except NotPermitted as error:
                refusals.append(f"{way.__name__}: {error}")
            else:
                yield folder
                return
    line = (
        "needs a small file system: root, user namespaces, or a small /dev/shm (" + "; ".join(refusals) + ")"
    )
    if os.environ.get("CI") == "true":
        pytest.fail(line, pytrace=False)
    pytest.skip(line)


@contextmanager
def mounted(size: int) -> Iterator[Path]:
    """Way 1."""
    if os.geteuid() != 0:
        raise NotPermitted("not root")
    with tempfile.TemporaryDirectory(prefix="tiny-") as folder:
        run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", folder)
        try:
            yield Path(folder)
        finally:
            # Lazily: a file that a test has left open must not keep the mount for ever.
            run("umount", "--lazy", folder)


@contextmanager
def in_namespace(size: int) -> Iterator[Path]:
    """Way 2. The helper ends with its standard input, that is, at the latest with the test process."""
    with tempfile.TemporaryDirectory(prefix="tiny-") as folder:
        script = f'mount -t tmpfs -o size={size},mode=0700 tmpfs "{folder}" && echo ready && exec cat'
        line = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
        try:
            helper = subprocess.Popen(
                line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except FileNotFoundError as error:
            raise NotPermitted("there is no unshare") from error
        with helper:
            assert helper.stdout is not None
            if helper.stdout.readline() != "ready\n":
                raise NotPermitted("no user namespaces")
            yield Path(f"/proc/{helper.pid}/root{folder}")


@contextmanager
def beside_ballast(size: int) -> Iterator[Path]:
    """Way 3."""
    state = os.statvfs(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None
    free = state.f_bavail * state.f_frsize if state is not None else 0
    if not size < free <= BALLAST_MAX:
        raise NotPermitted(f"{SHARED_MEMORY} has {free // MEBIBYTE} MiB free")
    with tempfile.TemporaryDirectory(prefix="tiny-", dir=SHARED_MEMORY) as folder:
        with Path(folder, "ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, free - size)
        (disk := Path(folder, "disk")).mkdir(mode=0o700)
        yield disk


def run(*line: str) -> None:
    """Run a program that makes or unmakes a file system."""
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotPermitted(done.stderr.strip())


WAYS: tuple[Callable[[int], AbstractContextManager[Path]], ...] = (mounted, in_namespace, beside_ballast)
