"""Presigned addresses of Transcribe's WebSocket interface (Signature Version 4 in the query). Pure.

Source: Amazon Transcribe Developer Guide, "Setting up a streaming transcription", WebSocket; AWS IAM User Guide, "Create a
signed AWS API request". Parameters of the service stand in the query without the prefix ``x-amzn-transcribe-``.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec

PATH: Final = "/stream-transcription-websocket"

EXPIRES_SECONDS_MAX: Final = 300
"""The longest that the service lets such an address be valid."""

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_SERVICE: Final = "transcribe"
_EMPTY_PAYLOAD: Final = hashlib.sha256(b"").hexdigest()


class Credentials(msgspec.Struct, frozen=True):
    """Keys of one moment; ``token`` belongs to temporary ones. Never in a log: their ``repr`` shows the key's id alone."""

    access_key: str
    secret_key: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Credentials({self.access_key!r})"


def endpoint_of(region: str) -> str:
    """Where a region's WebSocket interface is; China has a domain of its own."""
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"wss://transcribestreaming.{region}.{domain}:8443"


def presigned_url(
    endpoint: str,
    region: str,
    parameters: Mapping[str, str],
    credentials: Credentials,
    *,
    now: datetime,
    expires: int = EXPIRES_SECONDS_MAX,
) -> str:
    """The address to open, valid from ``now`` for ``expires`` seconds. It is a secret as long as it is valid.

    ``endpoint`` is ``wss://host[:port]`` and its host is signed as it stands there; ``parameters`` are the service's.

    Raises:
        ValueError: ``expires`` is not in 1..300, ``now`` has no time zone, or ``endpoint`` is more than a scheme and a host.
    """
    if not 1 <= expires <= EXPIRES_SECONDS_MAX:
        raise ValueError(f"an address is valid for 1 to {EXPIRES_SECONDS_MAX} seconds, not {expires}")
    host = _host_of(endpoint)
    moment = _moment(now)
    scope = f"{moment[:8]}/{region}/{_SERVICE}/aws4_request"
    query = dict(parameters)
    query["X-Amz-Algorithm"] = _ALGORITHM
    query["X-Amz-Credential"] = f"{credentials.access_key}/{scope}"
    query["X-Amz-Date"] = moment
    query["X-Amz-Expires"] = str(expires)
    query["X-Amz-SignedHeaders"] = "host"
    if credentials.token:
        query["X-Amz-Security-Token"] = credentials.token
    # Sorted by name, then joined: "=" would sort among the characters of longer names.
    pairs = sorted((_escaped(name), _escaped(value)) for name, value in query.items())
    canonical = "&".join(f"{name}={value}" for name, value in pairs)
    request = "\n".join(("GET", PATH, canonical, f"host:{host}", "", "host", _EMPTY_PAYLOAD))
    to_sign = "\n".join((_ALGORITHM, moment, scope, hashlib.sha256(request.encode()).hexdigest()))
    signature = hmac.new(_key(credentials.secret_key, scope), to_sign.encode(), hashlib.sha256).hexdigest()
    return f"{endpoint.rstrip('/')}{PATH}?{canonical}&X-Amz-Signature={signature}"


def _host_of(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("wss", "ws") or not parts.netloc or parts.path.strip("/") or parts.query:
        raise ValueError("an endpoint is wss://host[:port]")
    return parts.netloc


def _moment(now: datetime) -> str:
    if now.tzinfo is None:
        raise ValueError("the time of a signature needs a time zone")
    return now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def _escaped(text: str) -> str:
    return quote(text, safe="-_.~")


def _key(secret: str, scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
