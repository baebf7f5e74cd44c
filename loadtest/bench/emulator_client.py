"""The leanest clients of the emulator that can be: for load, not for use. They sign, send what they are given, and count what comes."""

from __future__ import annotations

import asyncio
import ssl
import time
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, Self, cast
from urllib.parse import quote

import aiofastnet
from h2.config import H2Configuration
from h2.connection import H2Connection
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from loadtest.emulator.chunks import CHUNK_ALGORITHM
from loadtest.emulator.eventstream import Timestamp, encode_headers, frame
from loadtest.emulator.h2flow import DATA, HEADER_BYTES, credit
from loadtest.emulator.sigv4 import (
    EMPTY_HASH,
    Request,
    Scope,
    canonical_request,
    hmac_sha256,
    sign,
    signing_key,
)

KEY: Final = "AKIDEXAMPLE"
SECRET: Final = "SECRETEXAMPLE"  # noqa: S105
REGION: Final = "us-west-2"
WINDOW: Final = 1 << 30


def _now() -> tuple[str, Scope]:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return stamp, Scope(KEY, stamp[:8], REGION, "transcribe")


def presigned(host: str, parameters: dict[str, str]) -> str:
    """A presigned URL of the WebSocket interface."""
    stamp, scope = _now()
    fields = {
        **parameters,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{KEY}/{scope.path}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": "300",
        "X-Amz-SignedHeaders": "host",
    }
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in sorted(fields.items()))
    request = Request("GET", "/stream-transcription-websocket", query, {})
    signature = sign(SECRET, scope, stamp, canonical_request(request, [("host", host)], EMPTY_HASH))
    return f"wss://{host}{request.path}?{query}&X-Amz-Signature={signature}"


class WebSocketClient(WSListener):
    """A stream over WebSocket; its messages are unsigned."""

    def __init__(self) -> None:
        self.received = 0

    @classmethod
    async def connect(cls, port: int, trust: ssl.SSLContext) -> Self:
        """Open a stream in Japanese."""
        parameters = {"language-code": "ja-JP", "media-encoding": "pcm", "sample-rate": "16000"}
        url = presigned(f"localhost:{port}", parameters)
        _, client = await ws_connect(cls, url, ssl_context=trust, socket_factory=None)
        return cast("Self", client)

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.received += 1

    def send(self, message: bytes) -> None:
        self._transport.send(WSMsgType.BINARY, message)

    def close(self) -> None:
        self._transport.disconnect()


class Http2Client(asyncio.Protocol):
    """A stream over HTTP/2; its messages are signed in a chain."""

    def __init__(self, host: str) -> None:
        self.received = 0
        self._host = host
        self._taken = 0

    @classmethod
    async def connect(cls, port: int, trust: ssl.SSLContext) -> Self:
        """Open a stream in Japanese."""
        trust.set_alpn_protocols(["h2"])
        loop = asyncio.get_running_loop()
        _, client = await aiofastnet.create_connection(
            loop, lambda: cls(f"localhost:{port}"), "localhost", port, ssl=trust, server_hostname="localhost"
        )
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        http = H2Connection(H2Configuration(client_side=True))
        http.initiate_connection()
        http.increment_flow_control_window(WINDOW)
        stamp, scope = _now()
        signed = [("host", self._host), ("x-amz-date", stamp)]
        request = Request("POST", "/stream-transcription", "", {})
        seed = sign(SECRET, scope, stamp, canonical_request(request, signed, EMPTY_HASH))
        self._prior = seed
        self._scope = scope
        authorization = (
            f"AWS4-HMAC-SHA256 Credential={KEY}/{scope.path}, SignedHeaders=host;x-amz-date, Signature={seed}"
        )
        prefix = "x-amzn-transcribe-"
        asked = {"language-code": "ja-JP", "media-encoding": "pcm", "sample-rate": "16000"}
        headers = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", self._host),
            (":path", request.path),
        ]
        headers += [("x-amz-date", stamp), ("authorization", authorization)]
        http.send_headers(1, headers + [(prefix + name, value) for name, value in asked.items()])
        self._transport.write(http.data_to_send() + credit(1, WINDOW))

    def data_received(self, data: bytes) -> None:
        self.received += 1

    def send(self, message: bytes) -> None:
        now = time.time()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        date = encode_headers({":date": Timestamp(int(now * 1000))})
        key = signing_key(SECRET, stamp[:8], REGION, "transcribe")
        text = (
            f"{CHUNK_ALGORITHM}\n{stamp}\n{self._scope.path}\n{self._prior}\n"
            f"{sha256(date).hexdigest()}\n{sha256(message).hexdigest()}"
        )
        signature = hmac_sha256(key, text)
        self._prior = signature.hex()
        signed = frame(date + encode_headers({":chunk-signature": signature}), message)
        head = len(signed).to_bytes(3, "big") + bytes((DATA, 0)) + (1).to_bytes(4, "big")
        assert len(head) == HEADER_BYTES
        self._transport.write(head + signed)

    def close(self) -> None:
        self._transport.abort()
