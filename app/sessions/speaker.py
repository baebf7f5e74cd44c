"""The speaker's side of a session: what a client may send, and when it is answered. No await, no socket."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from app.protocol.close import CloseCode
from app.protocol.messages import Ack, Flush, MalformedMessage, Pause, Ping, Pong, Stop, decode_client
from app.sessions.finals import FinalsBook
from app.sessions.link import ACK_SECONDS, Closing, Link
from audio.pcm import FRAME_BYTES_MAX, FRAME_BYTES_MIN, SAMPLE_BYTES, seconds_of
from audio.ring import Ring, WindowExceeded

IDLE_SECONDS = 60.0
"""A connection without audio, ping or pause for so long is closed."""

RESUMES_MAX = 5
RESUMES_SECONDS = 60.0
"""Within so many seconds so many connections that spoke may be sent back for one with the same ticket. More of them are two
clients, which would take the session from each other for ever."""


class SpeakerRequests(Protocol):
    """What a speaker can ask of its session. Synchronous and quick."""

    @property
    def durable(self) -> int:
        """Audio before this position survives the death of this task."""

    def audio_arrived(self) -> None:
        """The ring has more."""

    def flush_requested(self) -> None:
        """Make final what was said so far and answer."""

    def pause_requested(self) -> None:
        """No audio comes for a while."""

    def stop_requested(self) -> None:
        """The session ends here."""


class SpeakerSide:
    """One session's speaker, whichever connection that is at the moment."""

    def __init__(self, ring: Ring, book: FinalsBook, requests: SpeakerRequests) -> None:
        self._ring, self._book, self._requests = ring, book, requests
        self._announced = ring.limit
        self._has_spoken = False
        self._sent_back: deque[float] = deque(maxlen=RESUMES_MAX)
        self.link: Link | None = None
        self.stop_at: int | None = None

    def attach(self, link: Link) -> None:
        """``link`` is the speaker from now on; the one before is told so and closed.

        With the same ticket it may be the one before that lives, and ``link`` a call of its own that came very late: it is told
        to resume, which it does if it is still there; but see RESUMES_MAX.
        """
        if self.link is not None:
            self.link.close(
                Closing(CloseCode.SUPERSEDED, "superseded", "a newer connection speaks in this session")
                if link.serial > self.link.serial or self._is_contested(link.last_heard)
                else Closing(CloseCode.RESTARTING, "resumed", "the session was resumed elsewhere; resume")
            )
        self.link, self._has_spoken = link, False
        self._announced = self._ring.limit

    def detach(self, link: Link) -> bool:
        """The connection is gone. Returns whether it was the speaker."""
        if link is not self.link:
            return False
        self.link = None
        return True

    def audio(self, link: Link, data: bytes, now: float) -> None:
        """Take a binary frame whole, or not at all.

        Raises:
            Closing: the frame breaks a rule; the connection is to be closed.
        """
        size = len(data)
        if size % SAMPLE_BYTES or not FRAME_BYTES_MIN <= size <= FRAME_BYTES_MAX:
            raise Closing(
                CloseCode.MALFORMED, "bad_frame", f"{size} bytes are no frame of whole 16-bit samples"
            )
        self._must_speak(link)
        ring = self._ring
        if link.listens_only:
            raise Closing(CloseCode.WINDOW, "window_exceeded", "the session ends and takes no more audio")
        if self.stop_at is not None and ring.head + size // SAMPLE_BYTES > self.stop_at:
            raise Closing(
                CloseCode.MALFORMED, "audio_after_stop", f"the session was stopped at {self.stop_at}"
            )
        try:
            head = ring.write(data)
        except WindowExceeded as error:
            raise Closing(
                CloseCode.WINDOW,
                "window_exceeded",
                f"position {error.position + error.offered} is beyond the window, which ends at {error.limit}",
            ) from None
        link.last_heard = now
        self._requests.audio_arrived()
        if now - link.last_ack >= ACK_SECONDS:
            link.ack()
        if head == self.stop_at:
            self._requests.stop_requested()

    def text(self, link: Link, text: str, now: float) -> None:
        """Take a text frame.

        Raises:
            Closing: it is no message of the contract, or breaks a rule.
        """
        try:
            message = decode_client(text)
        except MalformedMessage as error:
            raise Closing(CloseCode.MALFORMED, error.code, str(error)) from None
        self._must_speak(link)
        match message:
            case Ping(id=ping_id):
                link.last_heard = now
                link.pong(Pong(ping_id))
            case Pause():
                link.last_heard = now
                self._requests.pause_requested()
            case Flush():
                self._requests.flush_requested()
            case Stop(position=position):
                self._stop(position)

    def tick(self, now: float) -> None:
        """Called a few times a second: acks that are due, and connections that went quiet."""
        link = self.link
        if link is None or link.closing:
            return
        unacknowledged = self._ring.head > self._requests.durable
        if self._ring.limit != self._announced or (unacknowledged and now - link.last_ack >= ACK_SECONDS):
            link.ack()
        ends = link.listens_only or self.stop_at == self._ring.head
        if now - link.last_heard >= IDLE_SECONDS and not ends:
            link.close(
                Closing(
                    CloseCode.IDLE,
                    "idle",
                    f"no audio, ping or pause for {IDLE_SECONDS:.0f} s; resume when needed",
                )
            )

    def take(self, link: Link, now: float) -> list[str]:
        """The text frames that wait for ``link``, in order."""
        finals = self._book.since(link.cursor) if link is self.link else []
        if finals is None:
            link.close(
                Closing(
                    CloseCode.INTERNAL, "fell_behind", "too slow to follow the finals; resume to get them"
                )
            )
            finals = []
        self._announced = self._ring.limit
        window = 0 if link.listens_only else self._ring.window
        return link.take(finals, Ack(self._ring.head, self._requests.durable, window), now)

    def _must_speak(self, link: Link) -> None:
        if link is not self.link:
            raise Closing(CloseCode.SUPERSEDED, "superseded", "a newer connection speaks in this session")
        self._has_spoken = True

    def _is_contested(self, now: float) -> bool:
        if not self._has_spoken:
            return False  # a late call, and nobody behind it
        sent_back = self._sent_back
        contested = len(sent_back) == RESUMES_MAX and now - sent_back[0] < RESUMES_SECONDS
        sent_back.append(now)
        return contested

    def _stop(self, position: int | None) -> None:
        head = self._ring.head
        wanted = head if position is None else position
        if wanted < head:
            raise Closing(
                CloseCode.MALFORMED,
                "stop_behind",
                f"position {wanted} ({seconds_of(wanted):.3f} s) is behind the {head} samples already received",
            )
        self.stop_at = wanted
        if wanted == head:
            self._requests.stop_requested()
