"""The disk store's folders and files: naming, locking, making durable. Blocking calls; raises OSError as it comes.

Layout, all under one root, folders 0700 and files 0600::

    <clinicId>/<sessionId>/.key          the session's data key, wrapped
    <clinicId>/<sessionId>/<name>        an object (name may have slashes)
    _<area>/.key, _<area>/<name>         the system's own
    .staging/<random>                    objects being written; each is locked (flock) by its writer
    .locks/<00..ff>                      one lock file per stripe of scopes

Who holds what: making objects and keys appear takes the scope's lock *shared*; replacing and deleting take it
*exclusively*. So a folder with its key is only ever removed when nobody is about to put an object there, and an object
only ever appears under the key it was encrypted with (else ``KeyChanged``, and the caller encrypts again).
The locks are of the kernel: they hold between processes, and end with the process that held them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from app.adapters.disk_calls import (
    Identity,
    flock,
    identity,
    remove_empty,
    remove_unlocked,
    sync_folder,
    write_all,
)
from app.adapters.object_keys import ObjectKey, Scope

KEY_FILE: Final = ".key"
_KEY_MAGIC: Final = b"kikitori-key-1\n"
_STAGING: Final = ".staging"
_LOCKS: Final = ".locks"
_KNOWN_MAX: Final = 8192
_STAGE_ATTEMPTS: Final = 8


class KeyChanged(Exception):
    """The scope's key file does not hold the wrapped key that the caller worked with."""


class Occupied(Exception):
    """Something is under the key already."""


class Clash(Occupied):
    """The key names a folder that other objects lie in, or would lie below an object."""


class RootGone(Exception):
    """The root is not the folder it was when the store started: removed, or unmounted."""


class Staged:
    """A file being written where nobody looks. Leaving the context removes it unless it was moved to its place."""

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path

    def close(self) -> None:
        """Forget the file. May be called again."""
        self.path.unlink(missing_ok=True)
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Staged:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DiskFiles:
    """See the module. Safe to share between threads and, on one root, between processes."""

    def __init__(self, root: Path, random: Callable[[int], bytes]) -> None:
        self._root = root
        self._random = random
        self._identity = (0, 0)
        # Folders whose whole path is known to be durable, by what they and their scope's key were then (another
        # process may remove and make them again). Cleared when full: the price is a few fsyncs.
        self._known: dict[Path, tuple[Identity, bytes]] = {}

    def start(self) -> None:
        """Make the root where it is missing and remove what writers that died have left behind."""
        for folder in (self._root, self._root / _STAGING, self._root / _LOCKS):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._identity = identity(self._root.stat())
        with os.scandir(self._root / _STAGING) as entries:
            for entry in entries:
                remove_unlocked(entry.path)  # Its writer holds its lock for as long as it lives.

    def check_root(self) -> None:
        """Raise RootGone if it is: an object that seems missing then may well exist."""
        try:
            found = identity(self._root.stat())
        except (FileNotFoundError, NotADirectoryError):
            raise RootGone from None
        if found != self._identity:
            raise RootGone

    def path(self, key: ObjectKey) -> Path:
        """Where the object is."""
        return self._root / key.key

    def stage(self) -> Staged:
        """A new empty file, locked, to write an object into."""
        for _ in range(_STAGE_ATTEMPTS):
            path = self._root / _STAGING / self._random(16).hex()
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return Staged(fd, path)
            os.close(fd)  # A sweep came between creating and locking.
        raise OSError(errno.EAGAIN, "staged files keep being swept away")

    @contextmanager
    def lock(self, scope: Scope, *, exclusive: bool) -> Iterator[None]:
        """Hold the scope's lock.

        Raises:
            LockBusy: see there.
        """
        stripe = hashlib.sha256(scope.path.encode()).digest()[0]
        fd = os.open(self._root / _LOCKS / f"{stripe:02x}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            flock(fd, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            yield
        finally:
            os.close(fd)

    def read_key(self, scope: Scope) -> bytes | None:
        """The scope's wrapped key; None where the scope has none."""
        try:
            content = (self._root / scope.path / KEY_FILE).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            self.check_root()
            return None
        return content.removeprefix(_KEY_MAGIC)

    def put_key(self, scope: Scope, wrapped: bytes) -> bytes:
        """Give the scope ``wrapped`` as its key if it has none; the key that it has then."""
        folder = self._root / scope.path
        with self.stage() as staged:
            write_all(staged.fd, _KEY_MAGIC + wrapped)
            os.fsync(staged.fd)
            with self.lock(scope, exclusive=False):
                self._make_folders(folder)
                with suppress(FileExistsError):
                    os.link(staged.path, folder / KEY_FILE)
                kept = self.read_key(scope)
        return kept if kept is not None else wrapped

    def publish(self, staged: Staged, key: ObjectKey, wrapped: bytes, still: Callable[[], None]) -> None:
        """Let the staged object appear under ``key`` if ``still`` does not raise; when this returns it is durable.

        Raises:
            Occupied, KeyChanged: see there.
        """
        target = self.path(key)
        os.fsync(staged.fd)
        with self.lock(key.scope, exclusive=False):
            self._expect_key(key.scope, wrapped)
            still()
            try:
                self._make_folders(target.parent)
            except (FileExistsError, NotADirectoryError):
                raise Clash from None
            try:
                os.link(staged.path, target)
            except FileExistsError:
                raise (Clash if target.is_dir() else Occupied) from None
        staged.close()
        self.settle(target.parent, wrapped)

    def open_object(self, key: ObjectKey, wrapped: bytes) -> int:
        """A file descriptor to read the object from, which is then the caller's to close.

        Raises:
            FileNotFoundError: there is no such object.
            KeyChanged: see there.
        """
        try:
            fd = os.open(self.path(key), os.O_RDONLY | os.O_NOFOLLOW)
        except (NotADirectoryError, FileNotFoundError) as error:
            self.check_root()
            raise FileNotFoundError(*error.args) from error
        try:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise FileNotFoundError(None, "a folder, no object")
            # The caller knew the key before the object was opened and it is the same after: it is the object's.
            self._expect_key(key.scope, wrapped)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def exists(self, key: ObjectKey) -> bool:
        """Whether there is an object under ``key``."""
        self.check_root()
        return self.path(key).is_file()

    def lost_its_key(self, key: ObjectKey) -> bool:
        """Whether there is an object under ``key`` whose scope has no key."""
        with self.lock(key.scope, exclusive=False):
            # In this order: whatever appeared had its key before, and under the lock no key goes.
            return self.exists(key) and self.read_key(key.scope) is None

    def swap(self, staged: Staged, key: ObjectKey, wrapped: bytes, still: Callable[[], None]) -> None:
        """Put the staged object in the place of the one under ``key`` if ``still`` does not raise; durable on return.

        Raises:
            KeyChanged: see there.
        """
        target = self.path(key)
        os.fsync(staged.fd)
        with self.lock(key.scope, exclusive=True):
            self._expect_key(key.scope, wrapped)
            still()
            staged.path.replace(target)
        self.settle(target.parent, wrapped)

    def remove(self, key: ObjectKey) -> None:
        """Remove the object if it is there, and the scope's folder with its key when this was its last; durable on return."""
        target, scope = self.path(key), self._root / key.scope.path
        self.check_root()
        with self.lock(key.scope, exclusive=True):
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                target.unlink()
            if target.parent.is_dir():
                sync_folder(target.parent)
            self._prune(target.parent, scope)

    def settle(self, folder: Path, wrapped: bytes) -> None:
        """Make the entries of ``folder`` durable, and what leads to them: its key and its place in the folders above."""
        try:
            found = sync_folder(folder), wrapped
            if self._known.get(folder) == found:
                return
            for above in folder.relative_to(self._root).parents:
                sync_folder(self._root / above)
        except FileNotFoundError:
            self.check_root()
            return  # What was in it has been deleted since, by somebody who made that durable.
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known[folder] = found

    def _expect_key(self, scope: Scope, wrapped: bytes) -> None:
        if self.read_key(scope) != wrapped:
            raise KeyChanged

    def _make_folders(self, folder: Path) -> None:
        # Never the root itself: an unmounted one must not be made up for by a folder on the disk below it.
        self.check_root()
        for above in reversed(folder.relative_to(self._root).parents[:-1]):
            (self._root / above).mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)

    def _prune(self, folder: Path, scope: Path) -> None:
        while folder != scope:
            if not remove_empty(folder):
                break
            folder = folder.parent
        if not scope.is_dir() or _has_objects(scope):
            return
        for above, _, _ in os.walk(scope, topdown=False):
            if above != str(scope):
                remove_empty(Path(above))
        (scope / KEY_FILE).unlink(missing_ok=True)
        # The key goes for good before the folder does: what it opened is lost from here on, as was asked.
        sync_folder(scope)
        remove_empty(scope)
        sync_folder(scope.parent)


def _has_objects(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(
            _has_objects(Path(entry.path))
            if entry.is_dir(follow_symlinks=False)
            else not entry.name.startswith(".")
            for entry in entries
        )
