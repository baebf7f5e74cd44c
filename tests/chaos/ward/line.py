"""One WebSocket as its owner sees it: messages as they are on the wire, and how it ended."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from picows import WSFrame, WSListener, WSMsgType, WSTransport


class Line(WSListener):
    """Hands each message to ``hear`` until it is dropped or closed; ``over`` is set then.

    ``code`` is the close code, 1006 where there was none; ``dropped`` says why its owner gave it up, if it did.
    """

    def __init__(self, hear: Callable[[Line, dict[str, Any]], None]) -> None:
        self._hear = hear
        self._transport: WSTransport | None = None
        self.over = asyncio.Event()
        self.code = 1006
        self.dropped = ""
        self.opened = self.heard = self.said = time.monotonic()
        self.ready = False
        self.reconnect_ms: int | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        self.opened = self.heard = self.said = time.monotonic()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if self.dropped:
            return
        self.heard = time.monotonic()
        if frame.msg_type == WSMsgType.TEXT:
            self._hear(self, json.loads(frame.get_payload_as_memoryview().tobytes()))
        elif frame.msg_type == WSMsgType.CLOSE:
            # The library has an enumeration of codes, ours are beyond it.
            self.code = int.from_bytes(frame.get_payload_as_bytes()[:2], "big") or 1005
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.over.set()

    def audio(self, pcm: bytes) -> None:
        """Send a binary frame."""
        assert self._transport is not None
        self._transport.send(WSMsgType.BINARY, pcm)
        self.said = time.monotonic()

    def say(self, message: dict[str, Any]) -> None:
        """Send a text frame."""
        assert self._transport is not None
        self._transport.send(WSMsgType.TEXT, json.dumps(message).encode())
        self.said = time.monotonic()

    def drop(self, why: str) -> None:
        """Reset the connection; what still comes of it is not heard any more."""
        self.dropped = self.dropped or why
        if self._transport is not None:
            self._transport.disconnect(graceful=False)
        self.over.set()
