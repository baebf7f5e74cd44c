"""Keys of an installation without a key service: everything is derived from one master key of 32 bytes."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tenants.keys import DataKey, KeyRejected, KeysError, Unsealable

MASTER_KEY_BYTES: Final = 32
MASTER_KEY_FILE: Final = "master.key"

_FORMAT: Final = b"\x01"
_NONCE_BYTES: Final = 12
_CACHED_KEYS: Final = 4096
_OWNER_ONLY: Final = 0o600


class MasterKeyRefused(KeysError):
    """The master key file is not one to trust; the text says what to do about it."""


class LocalKeys:
    """``KeyWrapper`` and ``Sealer`` over one master key.

    Each clinic's key, and each session's sealing key, is HKDF-SHA256 of the master key with an ``info`` that names its
    use and its owner. Wrapped keys and sealed texts are ``format (1) || nonce (12) || AES-256-GCM ciphertext and tag``.
    The additional data of a wrapped key is its context as canonical JSON, that of a sealed text is its purpose.
    Derived keys are cached, the least recently used forgotten first. Safe to share between threads.
    """

    def __init__(self, master: bytes, random: Callable[[int], bytes] = os.urandom) -> None:
        """Use ``master`` as it is.

        Raises:
            ValueError: it has not 32 bytes.
        """
        if len(master) != MASTER_KEY_BYTES:
            raise ValueError(f"a master key has {MASTER_KEY_BYTES} bytes, this one has {len(master)}")
        self._master = master
        self._random = random
        self._cipher = lru_cache(maxsize=_CACHED_KEYS)(self._new_cipher)

    @classmethod
    def in_folder(cls, folder: Path, random: Callable[[int], bytes] = os.urandom) -> LocalKeys:
        """Use ``master.key`` in ``folder``, making both if they are missing. Processes that race get the same key.

        Blocks for two fsyncs when it makes the key.

        Raises:
            MasterKeyRefused: the file is no plain file of 32 bytes that only its owner can read.
            OSError: the folder cannot be used.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / MASTER_KEY_FILE
        if not os.path.lexists(path):
            _make_master_key(path, random)
        return cls(_read_master_key(path), random)

    @staticmethod
    def has_file(folder: Path) -> bool:
        """Whether ``in_folder`` would find a master key rather than make one."""
        return os.path.lexists(folder / MASTER_KEY_FILE)

    def derive(self, purpose: str) -> bytes:
        """32 bytes that belong to ``purpose`` (ticket signing, for one): always the same for the same master key."""
        return self._derived("derive", purpose)

    async def new_data_key(self, clinic: str, context: Mapping[str, str]) -> DataKey:
        """See ``KeyWrapper``. Never waits."""
        plaintext = self._random(32)
        cipher = self._cipher("wrap", clinic)
        return DataKey(plaintext, self._encrypt(cipher, plaintext, _canonical(context)))

    async def unwrap(self, clinic: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """See ``KeyWrapper``. Never waits."""
        try:
            return _decrypt(self._cipher("wrap", clinic), wrapped, _canonical(context))
        except InvalidTag:
            raise KeyRejected(
                "a wrapped key does not open with this master key, clinic and context"
            ) from None

    def seal(self, clinic: str, session: str, purpose: str, plaintext: bytes) -> bytes:
        """See ``Sealer``."""
        return self._encrypt(self._cipher("seal", clinic, session), plaintext, purpose.encode())

    def unseal(self, clinic: str, session: str, purpose: str, sealed: bytes) -> bytes:
        """See ``Sealer``."""
        try:
            return _decrypt(self._cipher("seal", clinic, session), sealed, purpose.encode())
        except InvalidTag:
            raise Unsealable("a sealed text does not open for this clinic, session and purpose") from None

    def _new_cipher(self, *use: str) -> AESGCM:
        return AESGCM(self._derived(*use))

    def _derived(self, *use: str) -> bytes:
        # A JSON array, so that ("a", "bc") and ("ab", "c") can never be the same use.
        info = json.dumps(["kikitori", *use], separators=(",", ":")).encode()
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(self._master)

    def _encrypt(self, cipher: AESGCM, plaintext: bytes, bound_to: bytes) -> bytes:
        nonce = self._random(_NONCE_BYTES)
        return _FORMAT + nonce + cipher.encrypt(nonce, plaintext, bound_to)


def _decrypt(cipher: AESGCM, text: bytes, bound_to: bytes) -> bytes:
    body = 1 + _NONCE_BYTES
    if text[:1] != _FORMAT or len(text) < body + 16:
        raise InvalidTag
    return cipher.decrypt(text[1:body], text[body:], bound_to)


def _canonical(context: Mapping[str, str]) -> bytes:
    return json.dumps(dict(context), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _make_master_key(path: Path, random: Callable[[int], bytes]) -> None:
    # Written whole under another name and then linked: a reader never meets half a key, and of two makers one wins.
    draft = path.with_name(f".{path.name}.{random(8).hex()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY), "wb") as file:
        file.write(random(MASTER_KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # Another process was first; its key is the key.
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_master_key(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise MasterKeyRefused(
            f"{path} cannot be opened ({error.strerror}); it must be a plain file that this user owns, no link"
        ) from error
    try:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode):
            raise MasterKeyRefused(f"{path} is no plain file; move it away or name another data folder")
        if stat.S_IMODE(state.st_mode) & 0o077:
            raise MasterKeyRefused(
                f"{path} can be read or changed by others (mode {stat.S_IMODE(state.st_mode):04o}); if nobody else "
                f"has read it, run: chmod 600 {path}"
            )
        key = os.read(fd, MASTER_KEY_BYTES + 1)
    finally:
        os.close(fd)
    if len(key) != MASTER_KEY_BYTES:
        raise MasterKeyRefused(
            f"{path} has not {MASTER_KEY_BYTES} bytes; restore it from a backup, or, if no archive was written "
            "under it, remove it and start again"
        )
    return key
