"""The development issuer: a key pair in the data folder whose tokens this machine's server accepts."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from jwt.algorithms import OKPAlgorithm

from app.auth.principal import Scope
from app.config import ConfigError
from tenants.clinic import ClinicId

ISSUER: Final = "urn:kikitori:development"
AUDIENCE: Final = "kikitori"
FILE_NAME: Final = "dev-issuer.pem"


class DevIssuer:
    """Mints tokens, and is the KeySource that they are checked with. Built by ``open``."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        public_key = private_key.public_key()
        raw = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._key_id = hashlib.sha256(raw).hexdigest()[:16]
        self._public = jwt.PyJWK(OKPAlgorithm.to_jwk(public_key, as_dict=True), "EdDSA")

    @classmethod
    def open(cls, data_dir: Path) -> DevIssuer:
        """The issuer of a data folder, made where there is none; processes that do so at once agree on one key.

        Raises:
            ConfigError: the key's file cannot be made or read, is no Ed25519 key, or others may read it.
        """
        path = data_dir / FILE_NAME
        try:
            if not path.exists():
                _create(path)
            return cls(_read(path))
        except OSError as error:
            raise ConfigError(
                [f"{path}: {error.strerror}; the development issuer keeps its key there"]
            ) from error

    async def key(self, key_id: str | None) -> jwt.PyJWK | None:
        """The one key, if the token names it."""
        return self._public if key_id == self._key_id else None

    def mint(
        self, subject: str, clinic_id: ClinicId, scopes: Iterable[Scope], *, now: float, lifetime_seconds: int
    ) -> str:
        """A bearer token for ``subject`` of a clinic, good from ``now`` (Unix time in seconds)."""
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "clinic_id": clinic_id,
            "scope": " ".join(scopes),
            "iat": int(now),
            "exp": int(now) + lifetime_seconds,
        }
        return jwt.encode(claims, self._private_key, algorithm="EdDSA", headers={"kid": self._key_id})


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, fails where another process was first: its key is the one.
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)


def _read(path: Path) -> Ed25519PrivateKey:
    with path.open("rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise ConfigError([f"{path}: others may read this private key; run chmod 600 on it"])
        pem = file.read(65_536)
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError([f"{path}: this is no Ed25519 private key; remove it to have a new one made"])
    return key
