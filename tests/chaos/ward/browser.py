"""What a browser has: cookies, calls over HTTP, WebSockets. Nothing of the server's code is used."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from picows import WSError, WSHandshakeError, WSListener, ws_connect

CALL_SECONDS = 15.0
OPEN_SECONDS = 10.0
RETRY_SECONDS = 0.5
PROTOCOL = "kikitori.v1"


class Jar:
    """Cookies of one site."""

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}

    def get(self, name: str) -> str:
        """Empty where there is none."""
        return self._kept.get(name, "")

    def header(self) -> dict[str, str]:
        """What is sent with each request."""
        text = "; ".join(f"{name}={value}" for name, value in self._kept.items())
        return {"Cookie": text} if text else {}

    def take(self, answers: Iterable[str]) -> None:
        """Honour ``Set-Cookie`` headers."""
        for answer in answers:
            pair, *attributes = answer.split(";")
            name, _, value = pair.strip().partition("=")
            if any(attribute.strip().lower() == "max-age=0" for attribute in attributes):
                self._kept.pop(name, None)
            else:
                self._kept[name] = value


@dataclass(frozen=True)
class Refused(Exception):
    """An answer that is no success; ``status`` 0: there was none."""

    status: int
    code: str = ""
    retry_after: float = 0.0


class Browser:
    """One of its own: a token, a jar, and the site that it calls."""

    def __init__(self, site: str, token: str) -> None:
        self.jar = Jar()
        self._site, self._token = urlsplit(site), token
        self._stop = f"{self._site.hostname}:{self._site.port}"

    async def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, **headers: str
    ) -> tuple[bytes, dict[str, str]]:
        """A call; body and headers (names in lower case) of its answer.

        Raises:
            Refused: the answer is none, or no success.
        """
        data = b"" if body is None else json.dumps(body).encode()
        lines = {
            "Host": self._stop,
            "Authorization": f"Bearer {self._token}",
            "Content-Length": str(len(data)),
            "Connection": "close",
            **({"Content-Type": "application/json"} if data else {}),
            **self.jar.header(),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        try:
            async with asyncio.timeout(CALL_SECONDS):
                raw = await self._exchange(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data)
        except (OSError, TimeoutError):
            raise Refused(0, "unreachable") from None
        return self._read(raw)

    async def json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, **headers: str
    ) -> Any:
        """The same, for calls that are answered in JSON."""
        return json.loads((await self.call(method, path, body, **headers))[0])

    async def open(self, url: str, listener: WSListener, ticket: str) -> None:
        """Open a WebSocket with a ticket.

        Raises:
            Refused: it was not opened.
        """

        def joined(_request: Any, response: Any) -> WSListener:
            self.jar.take(response.headers.getall("Set-Cookie", ()))
            return listener

        offer = {"Sec-WebSocket-Protocol": f"{PROTOCOL}, ticket.{ticket}", **self.jar.header()}
        try:
            await ws_connect(
                joined,
                url,
                extra_headers=offer,
                max_redirects=0,
                websocket_handshake_timeout=OPEN_SECONDS,
                use_aiofastnet=False,
            )
        except WSHandshakeError as error:
            if error.response is None:
                raise Refused(0, "unreachable") from None
            headers = error.response.headers
            self.jar.take(headers.getall("Set-Cookie", ()))
            wait = float(headers.get("Retry-After", 0))
            raise Refused(int(error.response.status), _code(bytes(error.raw_body or b"")), wait) from None
        except (OSError, WSError, TimeoutError):
            raise Refused(0, "unreachable") from None

    async def _exchange(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self._site.hostname, self._site.port)
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()

    def _read(self, raw: bytes) -> tuple[bytes, dict[str, str]]:
        head, ended, body = raw.partition(b"\r\n\r\n")
        if not ended:
            raise Refused(0, "cut off")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        self.jar.take(value for name, value in pairs if name == "set-cookie")
        headers = dict(pairs)
        status = int(first.split()[1])
        if len(body) != int(headers.get("content-length", len(body))):
            raise Refused(0, "cut off")
        if not 200 <= status < 300:
            raise Refused(status, _code(body), float(headers.get("retry-after", 0)))
        return body, headers


def _code(body: bytes) -> str:
    """The stable word of a problem; empty where the balancer answered."""
    try:
        return str(json.loads(body)["code"])
    except (ValueError, KeyError, TypeError):
        return ""
