"""The WebSocket interface: ``GET /stream-transcription-websocket`` with a presigned query.

What is wrong with a request is said after the upgrade, in an exception message before a close frame, as the developer guide describes;
with ``refuse_by_status`` before it, by an HTTP status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast
from urllib.parse import unquote

from picows import (
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)

from loadtest.emulator.chunks import AudioReader
from loadtest.emulator.faults import FaultKind
from loadtest.emulator.problems import UNDECODABLE, UNEXPECTED_FRAME, ServiceError, bad_request
from loadtest.emulator.render import exception_frame
from loadtest.emulator.service import Admission, Service
from loadtest.emulator.sigv4 import Request
from loadtest.emulator.sockets import Connections, reset
from loadtest.emulator.stream import Cut, Stream

PATH: Final = "/stream-transcription-websocket"
MAX_FRAME_BYTES: Final = 128 * 1024
LINGER_SECONDS: Final = 1.0
"""So long a client has to answer a close frame."""
_BINARY = WSMsgType.BINARY


class _NoAnswer(WSUpgradeResponse):
    """An answer of which not a byte is sent."""

    def to_bytes(self) -> bytearray:
        return bytearray()


def _answer(request_id: str, *, silent: bool = False) -> WSUpgradeResponse:
    plain = cast("WSUpgradeResponse", WSUpgradeResponse.create_101_response({"x-amzn-RequestId": request_id}))
    if not silent:
        return plain
    nothing = _NoAnswer()
    nothing.version, nothing.status, nothing.headers, nothing.body = (
        plain.version,
        plain.status,
        plain.headers,
        None,
    )
    return nothing


def _is_upgrade(request: WSUpgradeRequest) -> bool:
    headers = request.headers
    return (
        headers.get("upgrade", "").lower() == "websocket"
        and "upgrade" in headers.get("connection", "").lower()
        and headers.get("sec-websocket-version") == "13"
        and "sec-websocket-key" in headers
    )


class WebSockets:
    """Makes the wire of each connection; call it with the request for an upgrade.

    Args:
        service: lets requests in.
        connections: where a connection is registered while it is open.
        refuse_by_status: refuse before the upgrade.
    """

    def __init__(self, service: Service, connections: Connections, *, refuse_by_status: bool) -> None:
        self._service = service
        self._connections = connections
        self._refuse_by_status = refuse_by_status

    def __call__(self, request: WSUpgradeRequest) -> WSUpgradeResponseWithListener | None:
        """The answer, and the wire; None is 404."""
        path, _, query = request.path.decode("latin-1").partition("?")
        if path != PATH:
            return None
        if not _is_upgrade(request):
            refusal = WSUpgradeResponse.create_error_response(400, b"no WebSocket upgrade")
            return WSUpgradeResponseWithListener(refusal, None)
        try:
            admission = self._admit(request, path, query)
        except ServiceError as error:
            return self._refuse(error)
        fault = admission.fault
        silent = fault is not None and fault.kind in {FaultKind.DROP_BEFORE_HEADERS, FaultKind.HANG}
        if fault is not None and fault.at_start and not silent:
            return self._refuse(fault.error)
        wire = WebSocketWire(self._service, self._connections, admission, None)
        return WSUpgradeResponseWithListener(_answer(admission.request_id, silent=silent), wire)

    def _admit(self, request: WSUpgradeRequest, path: str, query: str) -> Admission:
        pairs = (piece.partition("=")[::2] for piece in query.split("&") if piece)
        values = {unquote(name): unquote(value) for name, value in pairs}
        mine = {name: value for name, value in values.items() if not name.startswith("X-Amz-")}
        headers = {name.lower(): value for name, value in request.headers.items()}
        return self._service.request(Request("GET", path, query, headers), mine, presigned=True)

    def _refuse(self, error: ServiceError) -> WSUpgradeResponseWithListener:
        if self._refuse_by_status:
            headers = {"x-amzn-ErrorType": str(error.kind), "Content-Type": "application/json"}
            answer = WSUpgradeResponse.create_error_response(error.status, error.body, headers)
            return WSUpgradeResponseWithListener(answer, None)
        wire = WebSocketWire(self._service, self._connections, None, error)
        return WSUpgradeResponseWithListener(_answer("refused"), wire)


class WebSocketWire(WSListener):
    """One connection.

    Args:
        service: lets requests in. ``connections``: where it is registered while it is open.
        admission: the request that was let in; or
        refusal: why it was not.
    """

    def __init__(
        self,
        service: Service,
        connections: Connections,
        admission: Admission | None,
        refusal: ServiceError | None,
    ) -> None:
        self._service = service
        self._timers = service.timers
        self._connections = connections
        self._admission = admission
        self._refusal = refusal
        self._stream: Stream | None = None
        self._read: Callable[[bytes], bytes] = bytes
        self._pieces: list[bytes] | None = None
        self._paused = {"client": False, "rules": False}

    # -- the connection, as the library tells of it --------------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        self._lower: asyncio.Transport = transport.underlying_transport
        self._connections.add(self, self._lower)
        admission = self._admission
        if admission is None:
            assert self._refusal is not None
            self.event(exception_frame(self._refusal))
            self.finish()
        elif admission.fault is not None and admission.fault.at_start:
            if admission.fault.kind is FaultKind.DROP_BEFORE_HEADERS:
                self._lower.abort()
        else:
            self._begin(admission)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._timers.catch_up()
        self._connections.discard(self)
        if self._stream is not None:
            self._stream.lost()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind is _BINARY and frame.fin and self._pieces is None:
            self._timers.work(self._message, frame.get_payload_as_bytes())
            return
        self._timers.catch_up()
        if kind is WSMsgType.CLOSE:
            if not transport.is_close_frame_sent:
                transport.send_close(WSCloseCode.OK)
            transport.disconnect()
        elif self._stream is not None and kind is not WSMsgType.PONG:
            self._odd_frame(self._stream, kind, frame)

    def pause_writing(self) -> None:
        """A client that does not take its results is not read from, so that no more of them come."""
        self._pause("client", paused=True)

    def resume_writing(self) -> None:
        self._pause("client", paused=False)

    # -- what a stream asks of its wire --------------------------------------------------------------------------------

    def event(self, message: bytes) -> None:
        if not self._lower.is_closing():
            self._transport.send(_BINARY, message)

    def finish(self) -> None:
        self._close(WSCloseCode.OK)

    def cut(self, how: Cut) -> None:
        match how:
            case Cut.DROP:
                self._lower.abort()
            case Cut.TCP_RST | Cut.RST_STREAM:
                reset(self._lower)
            case Cut.GOAWAY:
                self._close(WSCloseCode.GOING_AWAY)

    def hold(self, *, reading: bool) -> None:
        self._pause("rules", paused=not reading)

    # -- within --------------------------------------------------------------------------------------------------------

    def _begin(self, admission: Admission) -> None:
        self._read = AudioReader(admission.caller, must_sign=False, now=self._service.now).read
        stream = self._stream = self._service.open(admission, self, "websocket")
        if admission.fault is not None:
            stream.arm(admission.fault)

    def _message(self, message: bytes) -> None:
        stream = self._stream
        if stream is None:
            return
        try:
            stream.audio(self._read(message))
        except ServiceError as error:
            stream.fail(error)

    def _odd_frame(self, stream: Stream, kind: WSMsgType, frame: WSFrame) -> None:
        """A message in several frames, or what is none."""
        first = self._pieces is None
        if kind is not (_BINARY if first else WSMsgType.CONTINUATION):
            stream.fail(bad_request(UNEXPECTED_FRAME))
            return
        pieces = self._pieces = self._pieces or []
        pieces.append(frame.get_payload_as_bytes())
        if sum(map(len, pieces)) > MAX_FRAME_BYTES:
            stream.fail(bad_request(UNDECODABLE))
        elif frame.fin:
            self._pieces = None
            self._message(b"".join(pieces))

    def _close(self, code: WSCloseCode) -> None:
        if self._lower.is_closing():
            return
        self._pause("rules", paused=False)
        self._transport.send_close(code)
        self._timers.call_at(self._timers.time() + LINGER_SECONDS, self._gone)

    def _gone(self) -> None:
        if not self._lower.is_closing():
            self._lower.abort()

    def _pause(self, why: str, *, paused: bool) -> None:
        before = any(self._paused.values())
        self._paused[why] = paused
        after = any(self._paused.values())
        if before != after and not self._lower.is_closing():
            (self._lower.pause_reading if after else self._lower.resume_reading)()
