"""uvicorn's WebSocket protocol, put right where a client's mistake would leave a false error in the log or a socket open."""

from __future__ import annotations

from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_NO_TEXT: Final = 1007


class UpgradeProtocol(WebSocketsSansIOProtocol):
    """For ``uvicorn.Config(ws=...)``; its methods run on the event loop and never wait for more than a full send buffer."""

    def data_received(self, data: bytes) -> None:
        """Take bytes; a request whose head cannot be read is answered and the connection closed."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # uvicorn waits for a request that websockets has given up on.
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def send_receive_event_to_app(self) -> None:
        """Hand on a message; a text that is no UTF-8 closes the connection (RFC 6455, section 8.1)."""
        if self.curr_msg_data_type == "text" and not self.close_sent and not _is_text(self.frames):
            self.conn.send_close(_NO_TEXT)
            self.handle_parser_exception()
            return
        super().send_receive_event_to_app()

    async def send(self, message: Any) -> None:
        """Send for the application; a refusal that was sent is a handshake that came to its end."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            # uvicorn would report an application that answered nothing, and at the level of an error.
            self.handshake_complete = True

    async def run_asgi(self) -> None:
        """Run the application. One that gives up a client which does not read leaves nothing behind for it."""
        await super().run_asgi()
        if self.handshake_complete and not self.close_sent and self.conn.close_rcvd is None:
            self.transport.abort()


def _is_text(frames: list[bytes]) -> bool:
    try:
        b"".join(frames).decode()
    except UnicodeDecodeError:
        return False
    return True
