"""What a session call may be refused with. ``app.errors`` maps each to a status and a code, once."""

from __future__ import annotations


class SessionError(Exception):
    """Root. ``code`` is the stable word of the problem body; the text says what to do."""

    code = "session_error"


class SessionNotFound(SessionError):
    """There is no such session in the caller's clinic (another clinic's is the same)."""

    code = "not_found"


class SpeakerConnected(SessionError):
    """The session has a speaker; only an abandoned one can be stopped from outside."""

    code = "speaker_connected"


class NotFinished(SessionError):
    """The call needs a finished session."""

    code = "not_finished"


class NoAudio(SessionError):
    """The session keeps no audio, or nothing was said in it."""

    code = "no_audio"


class NotTheSpeaker(SessionError):
    """Only the session's creator, or a holder of ``sessions:takeover``, may speak in it."""

    code = "not_the_speaker"


class Unprocessable(SessionError):
    """The request is well formed and cannot be granted; ``code`` says which part."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class IdempotencyInFlight(SessionError):
    """A call with the same ``Idempotency-Key`` is under way."""

    code = "idempotency_in_flight"


class Superseded(SessionError):
    """A newer ticket has this session."""

    code = "superseded"


class Busy(SessionError):
    """No new session here and now; ``retry_after`` in seconds."""

    def __init__(self, code: str, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after
