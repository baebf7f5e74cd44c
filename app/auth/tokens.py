"""Bearer tokens: JSON Web Tokens signed by an issuer whose public keys are known (RFC 7519, RFC 8725)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import jwt
import msgspec

from app.auth.principal import AuthError, Forbidden, Principal, Scope
from tenants.clinic import parse_clinic_id
from tenants.registry import ClinicRegistry

ALGORITHMS: Final = ("EdDSA", "ES256", "RS256")
"""Signatures with a public key only: a token that claims another algorithm is refused (RFC 8725, section 3.1)."""

TOKEN_CHARS_MAX: Final = 8192
LEEWAY_SECONDS: Final = 5.0
"""How far the issuer's clock may be off."""

_SUBJECT_CHARS_MAX: Final = 255
_OPTIONS: Final[Any] = {
    "require": ["exp", "iss", "aud", "sub", "clinic_id"],
    # Times are judged by the clock that was passed in.
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
}


class KeySource(Protocol):
    """Where an issuer's public keys come from."""

    async def key(self, key_id: str | None) -> jwt.PyJWK | None:
        """The key that a token's ``kid`` names (None: the token names none), or None where there is no such key.

        Raises:
            KeysUnavailable: the keys cannot be had now.
        """


class KeysUnavailable(Exception):
    """The issuer's keys cannot be had now, so no token can be judged."""


class _Claims(msgspec.Struct):
    """The claims that are looked at, after the signature was found good."""

    exp: float
    sub: str
    clinic_id: str
    scope: str = ""
    nbf: float = 0.0


class JwtVerifier:
    """A TokenVerifier for one issuer and one audience.

    Args:
        keys: the issuer's public keys.
        issuer: what ``iss`` must be.
        audience: what ``aud`` must be or hold.
        registry: a clinic that is not in it is refused.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        keys: KeySource,
        issuer: str,
        audience: str,
        registry: ClinicRegistry,
        clock: Callable[[], float],
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._registry = registry
        self._clock = clock

    async def verify(self, token: str) -> Principal:
        """The caller that ``token`` speaks for. Scopes that this server does not know are ignored.

        Raises:
            AuthError: ``token_invalid`` or ``token_expired``.
            Forbidden: ``unknown_clinic``.
            KeysUnavailable, RegistryUnavailable: the token cannot be judged now.
        """
        claims = await self._claims(token)
        self._check_times(claims)
        if not claims.sub or len(claims.sub) > _SUBJECT_CHARS_MAX or not claims.sub.isprintable():
            raise _invalid("its subject cannot be used")
        clinic_id = parse_clinic_id(claims.clinic_id)
        if clinic_id is None or await self._registry.find(clinic_id) is None:
            raise Forbidden("unknown_clinic", "the token's clinic is not registered here")
        known = frozenset(Scope(word) for word in claims.scope.split(" ") if word in set(Scope))
        return Principal(claims.sub, clinic_id, known)

    async def _claims(self, token: str) -> _Claims:
        if len(token) > TOKEN_CHARS_MAX:
            raise _invalid("it is too long")
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise _invalid("it is no JSON Web Token") from None
        if header.get("alg") not in ALGORITHMS:
            raise _invalid("its signature is of no accepted kind")
        key = await self._keys.key(header.get("kid"))
        if key is None:
            raise _invalid("it is not signed with a key of the issuer")
        return self._decode(token, key)

    def _decode(self, token: str, key: jwt.PyJWK) -> _Claims:
        try:
            payload = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self._audience,
                issuer=self._issuer,
                options=_OPTIONS,
            )
            return msgspec.convert(payload, _Claims)
        except jwt.InvalidAudienceError:
            raise _invalid("it is meant for another audience") from None
        except jwt.InvalidIssuerError:
            raise _invalid("it is from another issuer") from None
        except jwt.MissingRequiredClaimError as error:
            raise _invalid(f"it has no claim {error.claim}") from None
        except jwt.PyJWTError:
            raise _invalid("its signature or form is wrong") from None
        except msgspec.ValidationError:
            raise _invalid("a claim is of the wrong type") from None

    def _check_times(self, claims: _Claims) -> None:
        now = self._clock()
        if not claims.exp > now - LEEWAY_SECONDS:
            raise AuthError("token_expired", "the bearer token has expired: get a new one")
        if not claims.nbf <= now + LEEWAY_SECONDS:
            raise _invalid("it is not valid yet")


def parse_bearer(authorization: str | None) -> str:
    """The token in an ``Authorization`` header (RFC 6750, section 2.1).

    Raises:
        AuthError: ``token_missing``.
    """
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise AuthError("token_missing", "send Authorization: Bearer and a token")
    return token.strip()


def _invalid(why: str) -> AuthError:
    return AuthError("token_invalid", f"the bearer token is refused: {why}")
