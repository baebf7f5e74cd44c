from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from starlette.routing import Route

from app.auth.principal import Scope
from app.http.openapi import SOCKET_PATHS, document
from app.http.routes import OPERATIONS, Endpoint, rest_routes
from tests.support.edge import build, client

DOCUMENT = document(OPERATIONS)
METHODS = {"get", "post", "put", "delete"}


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from nodes(item)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            assert method in METHODS
            yield path, method, operation


def test_every_reference_leads_somewhere_and_nothing_is_left_over() -> None:
    used = {node["$ref"] for node in nodes(DOCUMENT) if "$ref" in node}
    assert used == {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}


def test_it_documents_exactly_the_routes_there_are() -> None:
    routed = {
        (route.path, method.lower())
        for route in rest_routes()
        if isinstance(route, Route) and isinstance(route.endpoint, Endpoint)
        for method in route.endpoint.by_method
    }
    routed |= {(path, "get") for path in SOCKET_PATHS}
    assert {(path, method) for path, method, _ in operations()} == routed


def test_the_calls_of_the_contract_are_there() -> None:
    described = {f"{method.upper()} {path}" for path, method, _ in operations()}
    assert described == {
        "POST /v1/sessions",
        "GET /v1/sessions",
        "GET /v1/sessions/{session_id}",
        "POST /v1/sessions/{session_id}/tickets",
        "POST /v1/sessions/{session_id}/stop",
        "GET /v1/sessions/{session_id}/transcript",
        "GET /v1/sessions/{session_id}/audio",
        "GET /v1/sessions/{session_id}/stream",
        "POST /v1/clinic/tickets",
        "GET /v1/events",
        "GET /v1/config",
        "GET /healthz",
        "GET /readyz",
        "GET /openapi.json",
    }


def test_operation_ids_are_unique_and_path_parameters_declared() -> None:
    found = list(operations())
    assert len({operation["operationId"] for *_, operation in found}) == len(found)
    for path, _, operation in found:
        declared = {item["name"] for item in operation["parameters"] if item["in"] == "path"}
        assert declared == ({"session_id"} if "{session_id}" in path else set())


def test_every_refusal_is_a_problem() -> None:
    for path, _, operation in operations():
        for status, response in operation["responses"].items():
            if int(status) >= 400 and path != "/readyz":
                assert list(response["content"]) == ["application/problem+json"]


def test_what_a_client_sends_is_described_as_it_is_decoded() -> None:
    create = DOCUMENT["components"]["schemas"]["CreateSession"]
    assert create["required"] == ["language"]
    assert create["additionalProperties"] is False
    assert create["properties"]["recording"]["enum"] == ["audio+transcript", "transcript"]
    limit = next(
        item for item in DOCUMENT["paths"]["/v1/sessions"]["get"]["parameters"] if item["name"] == "limit"
    )
    assert (limit["schema"]["minimum"], limit["schema"]["maximum"]) == (1, 200)


def test_scopes_are_told() -> None:
    assert DOCUMENT["paths"]["/v1/sessions"]["post"]["security"] == [{"bearer": [Scope.WRITE]}]
    assert DOCUMENT["paths"]["/healthz"]["get"]["security"] == []


async def test_it_is_served_without_a_token() -> None:
    async with client(build(), bearer=None) as http:
        answer = await http.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == msgspec.json.decode(msgspec.json.encode(DOCUMENT))
    assert answer.json()["openapi"] == "3.1.0"
    assert "Sec-WebSocket-Protocol: kikitori.v1" in answer.json()["info"]["description"]
