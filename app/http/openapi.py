"""OpenAPI 3.1 from the table that the routes are made of: what is documented is what is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from app.errors import PROBLEM_MEDIA
from app.http.calls import Access, Nothing, Operation
from app.protocol.rest import Problem

Json = dict[str, Any]

_REFS: Final = "#/components/schemas/{name}"
_UUID7: Final = "^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
_INTRODUCTION: Final = """\
Audio goes in, captions and an archive come out. Audio time is counted in samples at 16 kHz (*positions*).

Every refusal is an `application/problem+json` (RFC 9457) with a stable `code`; every answer carries `X-Request-ID`.
Requests with a foreign `Host` or `Origin` are refused with 403.

The two WebSockets speak the subprotocol `kikitori.v1`. A browser offers
`Sec-WebSocket-Protocol: kikitori.v1, ticket.<ticket>`, with a ticket from one of the calls below; others may send
`Authorization: Bearer` instead of the ticket. An upgrade is refused before it happens, with a problem body."""

_SESSION_ID: Final[Json] = {
    "name": "session_id",
    "in": "path",
    "required": True,
    "description": "a UUIDv7 in lower case; anything else is 404",
    "schema": {"type": "string", "format": "uuid", "pattern": _UUID7},
}
_SESSION: Final[Json] = {
    "name": "session",
    "in": "query",
    "description": "the only session to follow; a ticket for one session overrides it",
    "schema": {"type": "string", "format": "uuid", "pattern": _UUID7},
}
_AFTER: Final[Json] = {
    "name": "after",
    "in": "query",
    "description": "what the client has already: replayed from there on",
    "schema": {"type": "string"},
}
_IDEMPOTENCY_KEY: Final[Json] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "a repeat within 24 h gives the same session and a fresh ticket; with another body it is 422",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
_SOCKETS: Final = (
    ("/v1/sessions/{session_id}/stream", "speak", "Speak into a session (WebSocket)", [_SESSION_ID, _AFTER]),
    ("/v1/events", "observe", "Follow a session or the whole clinic (WebSocket)", [_SESSION, _AFTER]),
)

SOCKET_PATHS: Final = tuple(path for path, *_ in _SOCKETS)


def document(operations: Sequence[Operation[Any, Any]]) -> Json:
    """The OpenAPI document of ``operations`` and of the two WebSockets."""
    types = list(dict.fromkeys(_types(operations)))
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFS)
    refs = dict(zip(types, schemas, strict=True))
    paths: Json = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(
            operation, refs, components
        )
    for path, name, summary, parameters in _SOCKETS:
        paths[path] = {"get": _socket(name, summary, parameters)}
    for operation in operations:
        components.pop(operation.query.__name__, None)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Kikitori", "version": "1", "description": _INTRODUCTION},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _types(operations: Iterable[Operation[Any, Any]]) -> Iterable[type[msgspec.Struct]]:
    yield Problem
    for operation in operations:
        yield operation.query
        yield operation.body
        yield from (kind for kinds in operation.answers.values() for kind in kinds if isinstance(kind, type))


def _operation(operation: Operation[Any, Any], refs: dict[Any, Json], components: Json) -> Json:
    described: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": _parameters(operation, components),
        "responses": _responses(operation, refs),
        "security": _security(operation),
    }
    if operation.description:
        described["description"] = operation.description
    if operation.body is not Nothing:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": refs[operation.body]}},
        }
    return described


def _parameters(operation: Operation[Any, Any], components: Json) -> list[Json]:
    parameters = [_SESSION_ID] if "{session_id}" in operation.path else []
    if operation.idempotent:
        parameters = [*parameters, _IDEMPOTENCY_KEY]
    properties = components[operation.query.__name__].get("properties", {})
    for name, schema in properties.items():
        kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
        plain = kinds[0] if len(kinds) == 1 else schema
        parameters = [*parameters, {"name": name, "in": "query", "schema": plain}]
    return parameters


def _responses(operation: Operation[Any, Any], refs: dict[Any, Json]) -> Json:
    responses: Json = {}
    for status, kinds in operation.answers.items():
        content = dict(_content(kind, refs) for kind in kinds)
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            **({"content": content} if content else {}),
        }
    return {**responses, **_problems(_refusals(operation))}


def _content(kind: type[msgspec.Struct] | str, refs: dict[Any, Json]) -> tuple[str, Json]:
    if isinstance(kind, type):
        return "application/json", {"schema": refs[kind]}
    # Bytes have no schema (OpenAPI 3.1, section 4.8.14.1).
    return kind, {} if kind.startswith("audio/") else {"schema": {}}


def _refusals(operation: Operation[Any, Any]) -> set[int]:
    statuses = {403, *operation.refusals}
    if operation.access is not Access.ANYBODY:
        statuses |= {401, 503}
    if operation.query is not Nothing:
        statuses.add(422)
    if operation.body is not Nothing:
        statuses |= {400, 413, 422}
    if "{session_id}" in operation.path:
        statuses.add(404)
    return statuses - operation.answers.keys()


def _problems(statuses: Iterable[int]) -> Json:
    content = {PROBLEM_MEDIA: {"schema": {"$ref": _REFS.format(name="Problem")}}}
    return {
        str(status): {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted(statuses)
    }


def _security(operation: Operation[Any, Any]) -> list[Json]:
    if operation.access is Access.ANYBODY:
        return []
    # OpenAPI 3.1 lets any scheme list the roles that a call needs.
    bearer: Json = {"bearer": [str(operation.scope)] if operation.scope else []}
    return [bearer] if operation.access is Access.TOKEN else [{}, bearer]


def _socket(name: str, summary: str, parameters: list[Json]) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "101": {"description": "Switching Protocols, with the subprotocol kikitori.v1"},
            **_problems([400, 401, 403, 404, 409, 426, 429, 503]),
        },
        "security": [{}, {"bearer": []}],
    }
