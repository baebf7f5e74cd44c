"""The HTTP/2 interface: ``POST /stream-transcription``, one stream per connection.

`h2` has the handshake, the headers and the settings. Frames are cut out before it sees them, for two reasons: a client may send GOAWAY
right after its request, on which `h2` would close the connection, although RFC 9113 (6.8) lets streams that exist go on; and DATA frames,
nearly all there are, are taken and made here, at a fraction of the cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from email.utils import formatdate
from enum import Enum, auto
from typing import Final, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, Event, RemoteSettingsChanged, RequestReceived, StreamReset
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings

from loadtest.emulator.chunks import AudioReader
from loadtest.emulator.eventstream import Malformed, Splitter
from loadtest.emulator.faults import FaultKind
from loadtest.emulator.h2flow import (
    DATA,
    END_STREAM,
    GOAWAY,
    HEADER_BYTES,
    WINDOW_UPDATE,
    Framer,
    Outflow,
    credit,
    unpadded,
)
from loadtest.emulator.parameters import PREFIX
from loadtest.emulator.problems import UNDECODABLE, Kind, ServiceError, bad_request
from loadtest.emulator.service import Admission, Service
from loadtest.emulator.sigv4 import Request
from loadtest.emulator.sockets import Connections, reset
from loadtest.emulator.stream import Cut, Stream

PATH: Final = "/stream-transcription"
WINDOW: Final = 1 << 20
MAX_STREAMS: Final = 10
"""A second stream is let in as far as to be told that there is only one."""
_CREDIT: Final = 64 * 1024
"""After so much of it has been read, the client is told that the window is open again."""
LINGER_SECONDS: Final = 1.0
"""So long a client may go on sending into a stream that has ended, before the connection is closed and what it has not read yet is lost."""


class _State(Enum):
    WAITING = auto()
    STREAMING = auto()
    HANGING = auto()
    OVER = auto()


class Http2Wire(asyncio.Protocol):
    """One connection.

    Args:
        service: lets requests in.
        connections: where it is registered while it is open.
    """

    def __init__(self, service: Service, connections: Connections) -> None:
        self._service = service
        self._timers = service.timers
        self._connections = connections
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._framer = Framer()
        self._splitter = Splitter()
        self._state = _State.WAITING
        self._stream: Stream | None = None
        self._reader: AudioReader | None = None
        self._stream_id = 0
        self._read = 0
        self._client_done = False
        self._paused = {"client": False, "rules": False}

    # -- the connection, as asyncio tells of it ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Fast event loops' transports have the interface, not the base class.
        self._transport = cast("asyncio.Transport", transport)
        self._outflow = Outflow(self._write, self._full)
        self._connections.add(self, self._transport)
        mine = {SettingCodes.INITIAL_WINDOW_SIZE: WINDOW, SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS}
        self._h2.local_settings = Settings(client=False, initial_values=mine)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW - 65_535)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timers.catch_up()
        self._connections.discard(self)
        self._state = _State.OVER
        if self._stream is not None:
            self._stream.lost()

    def pause_writing(self) -> None:
        self._full(full=True)

    def resume_writing(self) -> None:
        self._full(full=False)

    def data_received(self, data: bytes) -> None:
        self._timers.work(self._received, data)

    def eof_received(self) -> None:
        self._timers.catch_up()

    # -- what a stream asks of its wire --------------------------------------------------------------------------------

    def event(self, message: bytes) -> None:
        if not self._transport.is_closing():
            self._outflow.send(self._stream_id, message)

    def finish(self) -> None:
        if self._transport.is_closing():
            return
        self._state = _State.OVER
        self._outflow.end(self._stream_id, self._bye)

    def cut(self, how: Cut) -> None:
        self._state = _State.OVER
        match how:
            case Cut.TCP_RST:
                reset(self._transport)
            case Cut.DROP:
                self._transport.abort()
            case Cut.RST_STREAM:
                self._h2.reset_stream(self._stream_id, ErrorCodes.INTERNAL_ERROR)
                self._flush()
                self._linger()
            case Cut.GOAWAY:
                self._h2.close_connection(ErrorCodes.INTERNAL_ERROR, last_stream_id=self._stream_id)
                self._flush()
                self._transport.close()

    def hold(self, *, reading: bool) -> None:
        self._pause("rules", paused=not reading)

    # -- within --------------------------------------------------------------------------------------------------------

    def _received(self, data: bytes) -> None:
        for kind, flags, stream_id, raw in self._framer.feed(data):
            if self._transport.is_closing():
                return
            if kind == DATA and stream_id == self._stream_id and stream_id:
                self._data(raw, flags)
            elif kind == WINDOW_UPDATE:
                self._outflow.credit(stream_id, raw, self._stream_id)
            elif kind != GOAWAY:
                self._control(raw)
        if self._framer.broken:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        self._transport.write(data)

    def _flush(self) -> None:
        if (data := self._h2.data_to_send()) and not self._transport.is_closing():
            self._transport.write(data)

    def _full(self, *, full: bool) -> None:
        """A client that does not take its results is not read from, so that no more of them come."""
        self._pause("client", paused=full)

    def _pause(self, why: str, *, paused: bool) -> None:
        before = any(self._paused.values())
        self._paused[why] = paused
        after = any(self._paused.values())
        if before != after and not self._transport.is_closing():
            (self._transport.pause_reading if after else self._transport.resume_reading)()

    def _control(self, raw: bytes) -> None:
        try:
            events = self._h2.receive_data(raw)
        except H2Error:
            self._flush()
            self._transport.close()
            return
        for event in events:
            self._handle(event)
        self._flush()

    def _handle(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._request(event)
            case StreamReset() | ConnectionTerminated() if self._stream is not None:
                self._stream.lost("reset by the client")
            case RemoteSettingsChanged() if SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
                size = event.changed_settings[SettingCodes.INITIAL_WINDOW_SIZE].new_value
                self._outflow.initial(size, self._stream_id)
            case _:
                pass

    def _request(self, event: RequestReceived) -> None:
        headers = {str(name): str(value) for name, value in event.headers}
        if self._stream_id:
            error = bad_request("Amazon Transcribe only supports one stream per HTTP/2 session.")
            self._refuse(event.stream_id, error)
            return
        self._stream_id = event.stream_id
        try:
            admission = self._admit(headers)
        except ServiceError as error:
            self._refuse(event.stream_id, error)
            self._linger()
            return
        fault = admission.fault
        if fault is not None and fault.at_start:
            self._start_with(fault.kind, fault.error)
        else:
            self._begin(admission)

    def _admit(self, headers: Mapping[str, str]) -> Admission:
        path, _, query = headers.get(":path", "").partition("?")
        if headers.get(":method") != "POST" or path != PATH:
            raise ServiceError(Kind.UNKNOWN_OPERATION)
        values = {name[len(PREFIX) :]: value for name, value in headers.items() if name.startswith(PREFIX)}
        return self._service.request(Request("POST", path, query, headers), values, presigned=False)

    def _start_with(self, kind: FaultKind, error: ServiceError) -> None:
        match kind:
            case FaultKind.DROP_BEFORE_HEADERS:
                self._transport.abort()
            case FaultKind.HANG:
                self._state = _State.HANGING
            case _:
                self._refuse(self._stream_id, error)
                self._linger()

    def _begin(self, admission: Admission) -> None:
        self._state = _State.STREAMING
        self._reader = AudioReader(admission.caller, must_sign=True, now=self._service.now)
        stream = self._stream = self._service.open(admission, self, "http2")
        echo = [(f"{PREFIX}{name}", value) for name, value in admission.parameters.echo.items()]
        request_id = [("x-amzn-request-id", admission.request_id), ("x-amzn-requestid", admission.request_id)]
        kind = ("content-type", "application/vnd.amazon.eventstream")
        self._h2.send_headers(self._stream_id, [(":status", "200"), kind, self._date(), *request_id, *echo])
        self._flush()
        if admission.fault is not None:
            stream.arm(admission.fault)

    def _refuse(self, stream_id: int, error: ServiceError) -> None:
        headers = [
            (":status", str(error.status)),
            ("content-type", "application/json"),
            ("content-length", str(len(error.body))),
            ("x-amzn-errortype", str(error.kind)),
            self._date(),
        ]
        self._h2.send_headers(stream_id, headers)
        self._h2.send_data(stream_id, error.body, end_stream=True)
        self._flush()

    def _date(self) -> tuple[str, str]:
        return ("date", formatdate(self._service.now(), usegmt=True))

    def _data(self, raw: bytes, flags: int) -> None:
        self._read += len(raw) - HEADER_BYTES
        if self._read >= _CREDIT:
            self._transport.write(credit(0, self._read) + credit(self._stream_id, self._read))
            self._read = 0
        self._client_done = bool(flags & END_STREAM)
        if self._state is not _State.STREAMING or self._stream is None or self._reader is None:
            return
        try:
            for message in self._splitter.feed(unpadded(raw, flags)):
                self._stream.audio(self._reader.read(message))
        except ServiceError as error:
            self._stream.fail(error)
        except Malformed:
            self._stream.fail(bad_request(UNDECODABLE))
        if flags & END_STREAM:
            self._stream.audio(b"")

    def _bye(self) -> None:
        """The stream has ended and all of it is sent."""
        self._h2.close_connection(ErrorCodes.NO_ERROR, last_stream_id=self._stream_id)
        self._flush()
        if self._client_done:
            self._transport.close()
        else:
            self._linger()

    def _linger(self) -> None:
        self._state = _State.OVER
        self._pause("rules", paused=False)
        self._timers.call_at(self._timers.time() + LINGER_SECONDS, self._close)

    def _close(self) -> None:
        if not self._transport.is_closing():
            self._transport.close()
