"""One REST call: what the table declares of it, and what is checked before its handler runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from app.auth.principal import Forbidden, Principal, Scope
from app.auth.tokens import parse_bearer
from app.errors import refused
from app.sessions.errors import SessionNotFound, Unprocessable
from app.telemetry.logs import bound
from tenants.terms import is_session_id

if TYPE_CHECKING:
    from app.services import Services

BODY_BYTES_MAX: Final = 65_536


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No query and no body."""


class Access(Enum):
    """Whom a call is for."""

    ANYBODY = "anybody"
    TOKEN_OPTIONAL = "optional"  # noqa: S105 - no password
    TOKEN = "token"  # noqa: S105 - no password


Query = TypeVar("Query", bound=msgspec.Struct)
Body = TypeVar("Body", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Call(Generic[Query, Body]):
    """A call that passed every check. ``session_id`` is empty where the path has none."""

    request: Request
    services: Services
    caller: Principal | None
    session_id: str
    query: Query
    body: Body

    @property
    def principal(self) -> Principal:
        """The caller of a call that needs a token."""
        assert self.caller is not None
        return self.caller


@dataclass(frozen=True, slots=True)
class Operation(Generic[Query, Body]):
    """A row of the table: routing, decoding and documentation come from it.

    Attributes:
        path: a template; ``{session_id}`` is the only parameter there is.
        scope: what the token must hold; None where none, or where the handler decides.
        answers: what each good status may carry: types are JSON, words are other media types.
        refusals: statuses of problems beyond those that follow from the other fields.
    """

    method: str
    path: str
    name: str
    summary: str
    handler: Callable[[Call[Query, Body]], Awaitable[Response]]
    query: type[Query]
    body: type[Body]
    answers: Mapping[int, tuple[type[msgspec.Struct] | str, ...]]
    access: Access = Access.TOKEN
    scope: Scope | None = None
    refusals: tuple[int, ...] = ()
    description: str = ""
    idempotent: bool = False


async def perform(operation: Operation[Any, Any], request: Request) -> Response:
    """Check the caller, the id, the query and the body, in this order, then run the handler.

    Raises:
        AuthError, Forbidden, SessionNotFound, Unprocessable, Refused, msgspec.DecodeError: nothing was done.
    """
    services: Services = request.app.state.services
    caller = await _caller(operation, request, services)
    session_id = _session_id(request)
    query = decode_query(request.query_params.multi_items(), operation.query)
    body: msgspec.Struct = Nothing()
    if operation.body is not Nothing:
        body = decode_body(await read_body(request), operation.body)
    ids = {"clinicId": caller.clinic_id if caller else "", "sessionId": session_id}
    with bound(**{name: value for name, value in ids.items() if value}):
        return await operation.handler(Call(request, services, caller, session_id, query, body))


def decode_query(items: list[tuple[str, str]], kind: type[Query]) -> Query:
    """A query string as a struct. A parameter without a value counts as left out.

    Raises:
        Unprocessable: ``invalid_query``, for a wrong value, an unknown parameter or one that is there twice.
    """
    given = {name: value for name, value in items if value}
    if len(given) != len([name for name, value in items if value]):
        raise Unprocessable("invalid_query", "a parameter is there twice")
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Unprocessable("invalid_query", str(error)) from None


def decode_body(data: bytes, kind: type[Body]) -> Body:
    """A JSON body as a struct.

    Raises:
        msgspec.DecodeError: it is no JSON (RFC 8259, section 8.1: in UTF-8).
        msgspec.ValidationError: it is, and not of this kind.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except UnicodeDecodeError:
        raise msgspec.DecodeError("JSON is written in UTF-8") from None


async def read_body(request: Request) -> bytes:
    """The body, as far as it is no longer than 64 KiB.

    Raises:
        Refused: 413.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise refused(413, "body_too_large", f"a body has at most {BODY_BYTES_MAX} bytes")
    return bytes(body)


async def _caller(operation: Operation[Any, Any], request: Request, services: Services) -> Principal | None:
    header = request.headers.get("authorization")
    if operation.access is Access.ANYBODY or (operation.access is Access.TOKEN_OPTIONAL and header is None):
        return None
    principal = await services.tokens.verify(parse_bearer(header))
    if operation.scope is not None:
        require(principal, operation.scope)
    return principal


def require(principal: Principal, scope: Scope) -> None:
    """Refuse a caller whose token lacks ``scope``.

    Raises:
        Forbidden: ``insufficient_scope``.
    """
    if not principal.may(scope):
        raise Forbidden("insufficient_scope", f"this needs a token with the scope {scope}")


def _session_id(request: Request) -> str:
    session_id = str(request.path_params.get("session_id", ""))
    if "session_id" in request.path_params and not is_session_id(session_id):
        raise SessionNotFound
    return session_id
