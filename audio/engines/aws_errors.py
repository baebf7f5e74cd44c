"""What went wrong with Transcribe, in the terms of the engine port. Pure; the one place that knows the service's names and words.

The service tells the causes of a BadRequestException apart by its text alone, so that text is looked at here and nowhere
else. It never becomes part of an error's text: that holds only words of this module.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

from audio.engine import EngineError, Rejected, Throttled, Unavailable
from audio.engines.aws_events import ServiceError

PERMISSION: Final = "transcribe:StartStreamTranscriptionWebSocket"

SKEW_SECONDS: Final = 60.0
"""A clock that is off by more than this is named as the reason of a refused signature; signatures are good for five minutes."""

RETRY_AFTER_MAX: Final = 60.0


def _away(code: str, message: str) -> Callable[[], EngineError]:
    return lambda: Unavailable(code, message)


def _never(code: str, message: str) -> Callable[[], EngineError]:
    return lambda: Rejected(code, message)


_SIGNATURE: Final = (
    "the service does not accept the signature: the secret key is wrong, or this machine's clock is"
)
_UNKNOWN_KEY: Final = (
    "the service does not know the credentials: a wrong access key, or a session token missing or wrong"
)

_BY_NAME: Final[Mapping[str, Callable[[], EngineError]]] = {
    "LimitExceededException": lambda: Throttled("limit_exceeded", "a quota of the region is used up"),
    "ThrottlingException": lambda: Throttled("throttled", "the service wants fewer requests"),
    "ConflictException": _away("conflict", "another stream has the same session id"),
    "InternalFailureException": _away("internal_failure", "the service failed"),
    "ServiceUnavailableException": _away("service_unavailable", "the service is not available"),
    "ExpiredTokenException": _away("credentials_expired", "the credentials have expired"),
    "AccessDeniedException": _never("access_denied", f"the credentials may not {PERMISSION}"),
    "UnrecognizedClientException": _never("credentials_unknown", _UNKNOWN_KEY),
    "InvalidClientTokenId": _never("credentials_unknown", _UNKNOWN_KEY),
    "InvalidSignatureException": _never("signature", _SIGNATURE),
    "SignatureDoesNotMatch": _never("signature", _SIGNATURE),
    "IncompleteSignatureException": _never("signature", _SIGNATURE),
    "MissingAuthenticationTokenException": _never("signature", _SIGNATURE),
    "SerializationException": _never("bad_request", "the service could not read the request"),
    "ValidationException": _never("bad_request", "the service refuses the request"),
}

_CURABLE: Final = (
    ("no new audio", "audio_timeout", "the service heard no audio for too long"),
    ("timed out", "session_timeout", "the service ended a stream that took too long"),
    ("duration", "session_timeout", "the service ended a stream that took too long"),
    ("could not decode", "undecodable", "the service could not decode the audio"),
    ("internal", "internal_failure", "the service failed"),
    ("complete signal", "unfinished", "the service missed the end of the stream"),
)
"""BadRequestExceptions that another stream may be spared: a piece of the text in lower case, code, own words."""

_TOPICS: Final = (
    "vocabulary filter",
    "vocabulary",
    "language",
    "sample rate",
    "speaker",
    "pii",
    "session",
    "frame",
    "stability",
)
"""What a refusal may be about; only these words of it are repeated."""


def error_of(error: ServiceError) -> EngineError:
    """What an exception of the service means, in a stream or before it."""
    if error.name == "BadRequestException":
        return _bad_request(error.message)
    make = _BY_NAME.get(error.name)
    return (
        make()
        if make
        else Unavailable("unknown_exception", "the service ended the stream by an exception of no known kind")
    )


_BY_STATUS: Final[Mapping[int, Callable[[], EngineError]]] = {
    404: _never("endpoint", "there is no Transcribe at the endpoint (status 404)"),
    408: _away("service_failed", "the service failed (status 408)"),
    409: _BY_NAME["ConflictException"],
}


def refusal_of(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> EngineError:
    """What it means that the connection was refused with an HTTP status; ``headers`` are looked up in lower case."""
    name = headers.get("x-amzn-errortype", "").partition(":")[0]
    if status == 403:
        return _forbidden(name, _skew(headers, now))
    if status in (429, 503) or name in ("LimitExceededException", "ThrottlingException"):
        message = f"the service refuses further streams for now (status {status})"
        return Throttled("throttled", message, _retry_after(headers))
    if status == 400:
        return _bad_request(body.decode(errors="replace"))
    if status >= 500:
        return Unavailable("service_failed", f"the service failed (status {status})")
    make = _BY_STATUS.get(status)
    return make() if make else Unavailable("refused", f"the connection was refused (status {status})")


def closed_by(code: int | None) -> Unavailable | None:
    """What it means that a stream's socket closed: ``code`` of the close frame, None when there was none. None: cleanly."""
    if code in (0, 1000):
        return None
    if code is None:
        return Unavailable("connection_lost", "the connection to the service broke")
    return Unavailable("closed_abnormally", f"the service closed the connection (code {code})")


def _bad_request(text: str) -> EngineError:
    low = text.lower()
    for piece, code, message in _CURABLE:
        if piece in low:
            return Unavailable(code, message)
    topics = [topic for topic in _TOPICS if re.search(rf"\b{topic.replace(' ', '[ -]?')}", low)]
    about = f"; it names: {', '.join(topics)}" if topics else ""
    return Rejected("bad_request", f"the service refuses the request{about}")


def _forbidden(name: str, skew: float) -> EngineError:
    make = _BY_NAME.get(name)
    error = make() if make else None
    if abs(skew) > SKEW_SECONDS and (error is None or error.code == "signature"):
        way = "ahead of" if skew > 0 else "behind"
        return Rejected(
            "clock_skew",
            f"this machine's clock is {abs(skew):.0f} s {way} the service's: signatures are refused",
        )
    if error is not None:
        return error
    return Rejected(
        "forbidden",
        f"the service refuses the credentials (status 403): they need to be valid and may {PERMISSION}",
    )


def _skew(headers: Mapping[str, str], now: datetime) -> float:
    try:
        return (now - parsedate_to_datetime(headers.get("date", ""))).total_seconds()
    except (ValueError, TypeError):
        return 0.0


def _retry_after(headers: Mapping[str, str]) -> float:
    value = headers.get("retry-after", "")
    return min(float(value), RETRY_AFTER_MAX) if value.isascii() and value.isdecimal() else 1.0
