"""AWS Signature Version 4, the side that checks: signed headers, presigned queries.

Source: AWS's "Signature Version 4 signing process".
Pure: the time is passed in, in seconds since 1970.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Final
from urllib.parse import quote, unquote

from loadtest.emulator.problems import Kind, ServiceError

ALGORITHM: Final = "AWS4-HMAC-SHA256"
EMPTY_HASH: Final = sha256(b"").hexdigest()
EVENTS_HASH: Final = "STREAMING-AWS4-HMAC-SHA256-EVENTS"
SKEW: Final = timedelta(minutes=5)
MAX_EXPIRES: Final = 300
STAMP: Final = "%Y%m%dT%H%M%SZ"
_STAMP_SHAPE: Final = re.compile(r"\d{8}T\d{6}Z")
_UNRESERVED: Final = "-_.~"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key that is let in. ``token`` must be sent along when there is one, and no other."""

    secret: str
    token: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What was signed.

    Attributes:
        method: of HTTP.
        path: as sent, without the query.
        query: as sent, without the question mark.
        headers: by lower-case name; HTTP/2's ``:authority`` among them under that name.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Scope:
    """A credential's scope: ``access_key/day/region/service/aws4_request``."""

    access_key: str
    day: str
    region: str
    service: str

    @property
    def path(self) -> str:
        """Without the access key, as it is signed."""
        return f"{self.day}/{self.region}/{self.service}/aws4_request"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who signed: for the limits of a region, and to check the messages that follow.

    Attributes:
        seed: the request's signature, with which the chain of signed messages begins.
    """

    access_key: str
    secret: str
    region: str
    service: str
    seed: bytes


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a request says of its signature; ``leave_out`` is the query parameter that holds it."""

    scope: Scope
    stamp: str
    secret: str
    signed: list[str]
    payload_hash: str
    signature: str
    leave_out: str


def hmac_sha256(key: bytes, text: str) -> bytes:
    """The keyed hash that everything here is made of."""
    return hmac.digest(key, text.encode(), "sha256")


@lru_cache(maxsize=256)
def signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    """The key that a day, a region and a service have."""
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac_sha256(key, part)
    return key


def canonical_query(query: str, leave_out: str = "") -> str:
    """The query sorted and encoded as it is signed."""
    pairs = [piece.partition("=")[::2] for piece in query.split("&") if piece]
    encoded = [(quote(unquote(k), safe=_UNRESERVED), quote(unquote(v), safe=_UNRESERVED)) for k, v in pairs]
    return "&".join(f"{key}={value}" for key, value in sorted(encoded) if key != leave_out)


def canonical_request(
    request: Request, headers: Sequence[tuple[str, str]], payload_hash: str, leave_out: str = ""
) -> str:
    """The text whose hash is signed; ``headers`` are the signed ones, sorted by name."""
    lines = [f"{name}:{' '.join(value.split())}\n" for name, value in headers]
    names = ";".join(name for name, _ in headers)
    path = quote(request.path or "/", safe="/-_.~")
    query = canonical_query(request.query, leave_out)
    return "\n".join((request.method, path, query, "".join(lines), names, payload_hash))


def sign(secret: str, scope: Scope, stamp: str, canonical: str) -> str:
    """The signature of a canonical request, in hexadecimal digits."""
    digest = sha256(canonical.encode()).hexdigest()
    key = signing_key(secret, scope.day, scope.region, scope.service)
    return hmac_sha256(key, f"{ALGORITHM}\n{stamp}\n{scope.path}\n{digest}").hex()


def _scope(credential: str) -> Scope:
    parts = credential.split("/")
    if len(parts) != 5 or parts[4] != "aws4_request" or not all(parts):
        raise ServiceError(
            Kind.INCOMPLETE_SIGNATURE, "Credential must have exactly 5 slash-delimited elements."
        )
    return Scope(*parts[:4])


def _moment(stamp: str) -> datetime:
    if not _STAMP_SHAPE.fullmatch(stamp):
        raise ServiceError(Kind.INCOMPLETE_SIGNATURE, "Date must be in ISO-8601 'basic format'.")
    try:
        return datetime.strptime(stamp, STAMP).replace(tzinfo=UTC)
    except ValueError as error:
        raise ServiceError(Kind.INCOMPLETE_SIGNATURE, "Date is no date.") from error


def check_time(kind: Kind, moment: datetime, now: datetime, lifetime: timedelta) -> None:
    """Refuse with ``kind`` what was signed longer than ``lifetime`` ago, or more than 5 minutes ahead."""
    stamp, minutes = moment.strftime(STAMP), int(SKEW.total_seconds() // 60)
    if now - moment > lifetime:
        edge = (now - lifetime).strftime(STAMP)
        span = f"{int(lifetime.total_seconds() // 60)} min."
        text = f"Signature expired: {stamp} is now earlier than {edge} ({now.strftime(STAMP)} - {span})"
        raise ServiceError(kind, text)
    if moment - now > SKEW:
        edge = (now + SKEW).strftime(STAMP)
        text = f"Signature not yet current: {stamp} is still later than {edge} ({now.strftime(STAMP)} + {minutes} min.)"
        raise ServiceError(kind, text)


class Verifier:
    """Checks requests against the keys that are let in.

    Args:
        keys: by access key id.
        service: the service that a credential's scope must name.
    """

    def __init__(self, keys: Mapping[str, Credentials], service: str = "transcribe") -> None:
        self._keys = dict(keys)
        self._service = service

    def header_signed(self, request: Request, now: float) -> Caller:
        """The caller of a request with an ``Authorization`` header.

        Raises:
            ServiceError: no, an incomplete, expired or wrong signature, an unknown key.
        """
        authorization = request.headers.get("authorization", "")
        if not authorization:
            raise ServiceError(Kind.UNSIGNED)
        if not authorization.startswith(ALGORITHM + " "):
            raise ServiceError(
                Kind.INCOMPLETE_SIGNATURE, f"Unsupported algorithm; only {ALGORITHM} is known."
            )
        fields = dict(
            part.strip().partition("=")[::2]
            for part in authorization[len(ALGORITHM) :].split(",")
            if part.strip()
        )
        missing = {"Credential", "SignedHeaders", "Signature"} - fields.keys()
        stamp = request.headers.get("x-amz-date", "")
        if missing or not stamp:
            names = ", ".join(sorted(missing) or ["X-Amz-Date"])
            raise ServiceError(Kind.INCOMPLETE_SIGNATURE, f"Authorization header requires {names}.")
        payload_hash = request.headers.get("x-amz-content-sha256", EMPTY_HASH)
        token = request.headers.get("x-amz-security-token", "")
        scope = _scope(fields["Credential"])
        check_time(Kind.INVALID_SIGNATURE, _moment(stamp), datetime.fromtimestamp(now, UTC), SKEW)
        secret = self._secret(scope, stamp, token)
        must = {"host", "x-amz-date"} | ({"x-amz-security-token"} if token else set())
        signed = self._signed_names(fields["SignedHeaders"], must)
        claim = _Claim(scope, stamp, secret, signed, payload_hash, fields["Signature"], "")
        return self._check(request, claim)

    def presigned(self, request: Request, now: float) -> Caller:
        """The caller of a request whose query is signed.

        Raises:
            ServiceError: as for ``header_signed``, and a lifetime of less than 1 s or more than 300 s.
        """
        query = dict(piece.partition("=")[::2] for piece in request.query.split("&"))
        fields = {unquote(name): unquote(value) for name, value in query.items()}
        self._check_fields(fields)
        stamp, expires = fields["X-Amz-Date"], fields["X-Amz-Expires"]
        if not expires.isascii() or not expires.isdecimal() or not 1 <= int(expires) <= MAX_EXPIRES:
            raise ServiceError(
                Kind.BAD_REQUEST, f"X-Amz-Expires must be between 1 and {MAX_EXPIRES} seconds."
            )
        scope = _scope(fields["X-Amz-Credential"])
        lifetime = timedelta(seconds=int(expires))
        check_time(Kind.INVALID_SIGNATURE, _moment(stamp), datetime.fromtimestamp(now, UTC), lifetime)
        secret = self._secret(scope, stamp, fields.get("X-Amz-Security-Token", ""))
        signed = self._signed_names(fields["X-Amz-SignedHeaders"], {"host"})
        given = fields["X-Amz-Signature"]
        return self._check(
            request, _Claim(scope, stamp, secret, signed, EMPTY_HASH, given, "X-Amz-Signature")
        )

    @staticmethod
    def _check_fields(fields: Mapping[str, str]) -> None:
        wanted = ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature")
        missing = [name for name in wanted if not fields.get(f"X-Amz-{name}")]
        if len(missing) == len(wanted):
            raise ServiceError(Kind.UNSIGNED)
        if missing:
            raise ServiceError(Kind.INCOMPLETE_SIGNATURE, f"The query requires X-Amz-{missing[0]}.")
        if fields["X-Amz-Algorithm"] != ALGORITHM:
            raise ServiceError(
                Kind.INCOMPLETE_SIGNATURE, f"Unsupported algorithm; only {ALGORITHM} is known."
            )

    def _secret(self, scope: Scope, stamp: str, token: str) -> str:
        if scope.service != self._service or scope.day != stamp[:8]:
            wanted = f"Credential should be scoped to correct service: '{self._service}', and to the day of its date."
            raise ServiceError(Kind.INVALID_SIGNATURE, wanted)
        known = self._keys.get(scope.access_key)
        if known is None or not hmac.compare_digest(known.token.encode(), token.encode()):
            raise ServiceError(Kind.UNRECOGNIZED_CLIENT)
        return known.secret

    @staticmethod
    def _signed_names(field: str, must: set[str]) -> list[str]:
        names = field.split(";")
        # HTTP/2 clients may sign the pseudo-header in the place of `host`.
        have = set(names) | ({"host"} if ":authority" in names else set())
        if must - have or names != sorted(set(names)):
            raise ServiceError(
                Kind.INVALID_SIGNATURE, "SignedHeaders must be sorted and name host and what AWS requires."
            )
        return names

    def _check(self, request: Request, claim: _Claim) -> Caller:
        scope = claim.scope
        for host in self._hosts(request.headers):
            headers = {**request.headers, "host": host}
            signed = [(name, headers.get(name, "")) for name in claim.signed]
            canonical = canonical_request(request, signed, claim.payload_hash, claim.leave_out)
            right = sign(claim.secret, scope, claim.stamp, canonical)
            if hmac.compare_digest(right.encode(), claim.signature.encode()):
                return Caller(
                    scope.access_key, claim.secret, scope.region, scope.service, bytes.fromhex(right)
                )
        raise ServiceError(Kind.INVALID_SIGNATURE)

    @staticmethod
    def _hosts(headers: Mapping[str, str]) -> list[str]:
        """The host as sent; without its port, as one client signs it although it connects to another port than 443."""
        sent = headers.get("host") or headers.get(":authority", "")
        bare = re.sub(r":\d+$", "", sent)
        return [sent] if bare == sent else [sent, bare]
