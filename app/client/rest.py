"""The REST calls that a speaker needs: create a session, get a ticket for it."""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx
import msgspec

from app.client.errors import ProtocolError, Refused, Unreachable
from app.protocol.rest import CreateSession, CreateTicket, Problem, SessionCreated, TicketIssued

CALL_SECONDS: Final = 10.0
_T = TypeVar("_T", SessionCreated, TicketIssued)


class RestClient:
    """Calls with one bearer token; ``async with`` closes its connections. Proxies of the environment are not used."""

    def __init__(self, url: str, token: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """``url`` is the server's, without a path; ``transport`` replaces the network.

        Raises:
            Unreachable: ``url`` is none that begins with http:// or https://.
        """
        if not url.startswith(("http://", "https://")):
            raise Unreachable("the server's URL begins with http:// or https://")
        self._url = url
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=CALL_SECONDS,
            transport=transport,
            trust_env=False,
            verify=ssl.create_default_context(),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def create(self, request: CreateSession, *, idempotency_key: str | None = None) -> SessionCreated:
        """Create a session. With a key the call may be repeated after Unreachable.

        Raises:
            Unreachable, Refused, ProtocolError: see there.
        """
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return await self._post("/v1/sessions", request, SessionCreated, headers)

    async def speaker_ticket(self, session_id: str) -> TicketIssued:
        """A new ticket to speak in a session.

        Raises:
            Unreachable, Refused, ProtocolError: see there.
        """
        path = f"/v1/sessions/{session_id}/tickets"
        return await self._post(path, CreateTicket(role="speaker"), TicketIssued, {})

    async def _post(self, path: str, body: msgspec.Struct, answer: type[_T], headers: dict[str, str]) -> _T:
        sent = {"Content-Type": "application/json", **headers}
        try:
            response = await self._http.post(path, content=msgspec.json.encode(body), headers=sent)
        except (httpx.TransportError, httpx.InvalidURL, OSError) as failure:
            raise Unreachable(f"cannot reach {self._url} ({type(failure).__name__})") from failure
        if not response.is_success:
            raise refusal(response.status_code, response.content, response.headers.get("Retry-After"))
        try:
            return msgspec.json.decode(response.content, type=answer)
        except msgspec.DecodeError as failure:
            raise ProtocolError(f"{self._url} does not answer as a server of ours") from failure


def refusal(status: int, body: bytes, retry_after: str | None) -> Refused:
    """What an error response says; one without a problem body has the code ``http_<status>``."""
    seconds = float(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else None
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Refused(status, f"http_{status}", "", seconds)
    return Refused(status, problem.code, problem.detail or problem.title, seconds)
