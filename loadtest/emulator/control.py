"""The control interface: HTTP and JSON on loopback, for tests to arm faults and to see what is open.

| call | body | answer |
|---|---|---|
| ``GET /counters`` | | sums: open and highest streams, open connections, starts, refusals, audio bytes, results, CPU seconds |
| ``GET /sessions``, ``GET /sessions/ID`` | | a list of accounts, one for each stream, oldest first |
| ``GET /faults`` | | the armed faults |
| ``POST /faults`` | a fault | arms it for streams to come |
| ``POST /faults/now`` | a fault | strikes open streams; ``{"struck": N}`` |
| ``DELETE /faults``, ``DELETE /faults/ID`` | | disarms all, or those of a session |
| ``GET /quotas``, ``PUT /quotas`` | ``max_streams``, ``max_starts_per_second`` | the quotas in force |

A wrong body is answered with 400 and ``{"error"}``, an unknown path with 404.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

import h11
import msgspec

from loadtest.emulator.faults import Fault, TooManyArmed
from loadtest.emulator.service import Service
from loadtest.emulator.sockets import Connections

MAX_BODY_BYTES: Final = 64 * 1024


class QuotaChange(msgspec.Struct, forbid_unknown_fields=True):
    """What of the quotas changes."""

    max_streams: int | None = None
    max_starts_per_second: int | None = None


class Unknown(Exception):
    """There is no such path, or not with this method."""


class Control:
    """Answers the calls; knows no socket.

    Args:
        service: whose faults, quotas and accounts they are.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def answer(self, method: str, path: str, body: bytes) -> object:
        """What to answer, to be encoded as JSON.

        Raises:
            Unknown: no such call.
            msgspec.ValidationError: a wrong body; ``msgspec.DecodeError``: no JSON.
            TooManyArmed: no more faults can be armed.
        """
        first, _, rest = path.strip("/").partition("/")
        match (method, first):
            case ("GET", "counters") if not rest:
                return self._service.ledger.counters()
            case ("GET", "sessions"):
                return self._service.ledger.sessions(rest or None)
            case (_, "faults"):
                return self._faults(method, rest, body)
            case ("GET" | "PUT", "quotas") if not rest:
                return self._quotas(body if method == "PUT" else b"{}")
        raise Unknown

    def _faults(self, method: str, rest: str, body: bytes) -> object:
        book = self._service.faults
        match (method, rest):
            case ("GET", ""):
                return book.armed
            case ("POST", ""):
                book.arm(msgspec.json.decode(body, type=Fault))
                return {"armed": len(book.armed)}
            case ("POST", "now"):
                fault = msgspec.json.decode(body, type=Fault)
                if fault.at_start:
                    raise msgspec.ValidationError(f"{fault.kind} strikes only before a stream")
                return {"struck": self._service.strike_now(fault)}
            case ("DELETE", _):
                book.disarm(rest or None)
                return {"armed": len(book.armed)}
        raise Unknown

    def _quotas(self, body: bytes) -> object:
        quotas, change = self._service.quotas, msgspec.json.decode(body, type=QuotaChange)
        if change.max_streams is not None:
            quotas.max_streams = change.max_streams
        if change.max_starts_per_second is not None:
            quotas.max_starts_per_second = change.max_starts_per_second
        return {"max_streams": quotas.max_streams, "max_starts_per_second": quotas.max_starts_per_second}


class ControlProtocol(asyncio.Protocol):
    """One control connection; may be kept for several calls.

    Args:
        control: answers them.
        connections: where it is registered, apart from those of streams.
    """

    def __init__(self, control: Control, connections: Connections) -> None:
        self._control = control
        self._connections = connections
        self._http = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Fast event loops' transports have the interface, not the base class.
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self, self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._http.receive_data(data)
        try:
            while self._take(self._http.next_event()):
                pass
        except h11.RemoteProtocolError:
            self._transport.close()

    def _take(self, event: object) -> bool:
        match event:
            case h11.Request():
                self._request, self._body = event, bytearray()
            case h11.Data():
                self._body += event.data
                if len(self._body) > MAX_BODY_BYTES:
                    self._transport.close()
                    return False
            case h11.EndOfMessage():
                return self._reply()
            case _:
                return False
        return True

    def _reply(self) -> bool:
        assert self._request is not None
        status, answer = self._answer(self._request.method.decode(), self._request.target.decode())
        body = msgspec.json.encode(answer)
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        events = (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
        self._transport.write(b"".join(self._http.send(event) or b"" for event in events))
        if self._http.our_state is h11.MUST_CLOSE:
            self._transport.close()
            return False
        self._http.start_next_cycle()
        return True

    def _answer(self, method: str, target: str) -> tuple[int, object]:
        try:
            return 200, self._control.answer(method, target.partition("?")[0], bytes(self._body))
        except Unknown:
            return 404, {"error": "no such call"}
        except (msgspec.DecodeError, TooManyArmed) as error:
            return 400, {"error": str(error) or "too many faults are armed"}
