"""What a client may fail with. No text holds a ticket, a token or what was said."""

from __future__ import annotations


class ClientError(Exception):
    """Root. The text says what happened, for a person."""


class Unreachable(ClientError):
    """The server could not be asked: no connection, no answer in time, or no HTTP."""


class Refused(ClientError):
    """The server answered with an error: ``status`` is HTTP's, ``code`` the stable word of the problem body.

    ``retry_after`` is in seconds, where the server named it.
    """

    def __init__(self, status: int, code: str, detail: str, retry_after: float | None = None) -> None:
        super().__init__(f"{detail} ({status} {code})" if detail else f"the server answered {status}")
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after

    @property
    def retryable(self) -> bool:
        """Whether the same call may be granted later."""
        return self.status in {408, 429} or self.status >= 500


class StreamEnded(ClientError):
    """The server closed the stream for good before ``completed``; ``close_code`` is the socket's, ``code`` its word."""

    def __init__(self, close_code: int, code: str, message: str) -> None:
        super().__init__(f"the stream was closed: {message or 'no reason given'} ({close_code} {code})")
        self.close_code = close_code
        self.code = code


class GaveUp(ClientError):
    """No progress for as long as the client was told to try; ``last`` is the latest failure, in words."""

    def __init__(self, seconds: float, last: str) -> None:
        super().__init__(f"no progress for {seconds:.0f} s; the last attempt: {last}")
        self.last = last


class ProtocolError(ClientError):
    """The server broke the contract; going on could lose or double something."""


class BadAudio(ClientError):
    """The source's PCM ends in the middle of a sample."""
