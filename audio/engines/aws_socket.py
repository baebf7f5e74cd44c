"""The connection to Transcribe: picows over TLS. Opens it, and hands frames to and from a stream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Protocol

import picows

from audio.engine import EngineError, Unavailable
from audio.engines.aws_errors import refusal_of

FRAME_BYTES_MAX: Final = 1_048_576
"""The longest message taken from the service; a transcript of a segment is a few thousand bytes."""

TLS_BUFFER_BYTES: Final = 2 * (16 * 1024 + 256)
WRITE_BYTES: Final = 32_768
"""Unsent bytes at which writing waits, one second of audio; it goes on below a quarter of that."""

KERNEL_BYTES: Final = 65_536
"""The kernel's send buffer. Left to itself it would grow to megabytes, minutes of audio that no one has heard."""

UNANSWERED_MS: Final = 10_000
"""The kernel gives a connection up when what was sent is not acknowledged for so long."""

_BINARY: Final = picows.WSMsgType.BINARY
_CLOSE: Final = picows.WSMsgType.CLOSE
_CONTINUATION: Final = picows.WSMsgType.CONTINUATION
_TEXT: Final = picows.WSMsgType.TEXT
_LOGGER: Final = logging.getLogger("picows.transcribe")


class Receiver(Protocol):
    """What a stream does with its connection; called on the loop, never blocks, never raises."""

    def connected(self, connection: Connection) -> None:
        """The upgrade succeeded; called before anything else."""

    def received(self, message: memoryview) -> None:
        """A whole binary message; the memory is used again afterwards."""

    def lost(self, code: int | None) -> None:
        """No more will be received: the code of the service's close frame (0: one without), or None when there was none."""

    def blocked(self, waiting: bool) -> None:
        """Whether as much is unsent as should be."""


class Connection(picows.WSListener):
    """One connection, from the upgrade on."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._transport: picows.WSTransport | None = None
        self._parts = bytearray()

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self._transport = transport
        transport.underlying_transport.set_write_buffer_limits(high=WRITE_BYTES, low=WRITE_BYTES // 4)
        self._receiver.connected(self)

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        kind = frame.msg_type
        if kind == _BINARY and frame.fin:
            self._receiver.received(frame.get_payload_as_memoryview())
        elif kind == _CLOSE:
            # At run time these codes are integers; some have no name.
            self._receiver.lost(int(frame.get_close_code()))  # type: ignore[call-overload]
            transport.send_close(picows.WSCloseCode.OK)
            transport.disconnect()
        elif kind in (_BINARY, _CONTINUATION):
            self._gather(frame)
        elif kind == _TEXT:
            # Not a message of this interface; an empty one is malformed to whoever decodes it.
            self._receiver.received(memoryview(b""))

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        self._receiver.lost(None)

    def pause_writing(self) -> None:
        self._receiver.blocked(True)

    def resume_writing(self) -> None:
        self._receiver.blocked(False)

    def send(self, message: bytes) -> None:
        """Send one message; never waits. Without effect once disconnected."""
        if self._transport is not None:
            self._transport.send(_BINARY, message)

    def read(self, go_on: bool) -> None:
        """Stop reading, or go on."""
        if self._transport is None or self._transport.is_disconnected:
            return
        if go_on:
            self._transport.underlying_transport.resume_reading()
        else:
            self._transport.underlying_transport.pause_reading()

    def abort(self) -> None:
        """Drop the connection at once; what is unsent is lost. Idempotent."""
        if self._transport is not None:
            self._transport.disconnect(graceful=False)

    async def gone(self) -> None:
        """Wait until nothing of it is left."""
        if self._transport is not None:
            with contextlib.suppress(picows.WSError):
                await self._transport.wait_disconnected()

    def _gather(self, frame: picows.WSFrame) -> None:
        self._parts += frame.get_payload_as_memoryview()
        if len(self._parts) > FRAME_BYTES_MAX:
            self._parts = bytearray()
            self._receiver.received(memoryview(b""))
        elif frame.fin:
            message, self._parts = bytes(self._parts), bytearray()
            self._receiver.received(memoryview(message))


async def connect(
    url: str, context: ssl.SSLContext, receiver: Receiver, limit: float, now: datetime
) -> Connection:
    """Open a connection within ``limit`` seconds. ``now`` tells a refused signature from a wrong clock. Cancelling leaves nothing.

    Raises:
        Throttled, Unavailable, Rejected: as the service or the network has it.
    """
    sockets: list[socket.socket] = []
    try:
        async with asyncio.timeout(limit):
            _, connection = await picows.ws_connect(
                lambda: Connection(receiver),
                url,
                ssl_context=context,
                websocket_handshake_timeout=limit,
                max_frame_size=FRAME_BYTES_MAX,
                max_redirects=0,
                logger_name=_LOGGER,
                # 7 % less CPU than the loop's own TLS, for 8 KB more a connection.
                use_aiofastnet=True,
                # Two TLS records (RFC 8446, 5.2) each way; a quarter of a megabyte each by default, for every stream.
                ssl_incoming_bio_size=TLS_BUFFER_BYTES,
                ssl_outgoing_bio_size=TLS_BUFFER_BYTES,
                socket_factory=lambda target: _tcp(str(target.host), int(target.port), sockets),
            )
    except BaseException as error:
        # A connection that waits for its upgrade when this is cancelled would live on.
        for opened in sockets:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        meaning = _meaning(error, now)
        if meaning is None:
            raise
        raise meaning from None
    # Typed as always there; it is None when the service drops the connection before its headers.
    if not isinstance(connection, Connection):
        raise Unavailable("dropped", "the service dropped the connection before it answered")
    return connection


_NETWORK: Final[tuple[tuple[type[Exception], str, str], ...]] = (
    (TimeoutError, "open_timeout", "the service did not answer in time"),
    (
        ssl.SSLCertVerificationError,
        "untrusted",
        "the service's certificate is not trusted; SSL_CERT_FILE names others",
    ),
    (ssl.SSLError, "tls", "no TLS connection to the service"),
    (socket.gaierror, "unknown_host", "the service's host name cannot be resolved"),
    (OSError, "unreachable", "the service cannot be reached"),
    (picows.WSError, "handshake", "the service's answer to the upgrade makes no sense"),
)
"""The first kind that fits counts."""


def _meaning(error: BaseException, now: datetime) -> EngineError | None:
    if isinstance(error, picows.WSHandshakeError) and error.response is not None:
        answer = error.response
        headers: Mapping[str, str] = {name.lower(): value for name, value in answer.headers.items()}
        return refusal_of(int(answer.status), headers, error.raw_body or b"", now)
    for kind, code, message in _NETWORK:
        if isinstance(error, kind):
            return Unavailable(code, message)
    return None


async def _tcp(host: str, port: int, opened: list[socket.socket]) -> socket.socket:
    loop = asyncio.get_running_loop()
    failed: OSError = OSError("no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        made = socket.socket(family, kind, protocol)
        try:
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MS)
            await loop.sock_connect(made, address)
        except OSError as error:
            made.close()
            failed = error
            continue
        except BaseException:
            made.close()
            raise
        opened.append(made)
        return made
    raise failed
