"""The edge of the server with made-up services behind it: no socket, no store, no engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.routing import BaseRoute
from structlog.testing import capture_logs

from app.auth.principal import AuthError, Principal, Scope
from app.config import load
from app.http.middleware import middleware
from app.http.routes import rest_routes
from app.telemetry.metrics import Metrics
from audio.engine import EngineCapabilities
from tenants.clinic import Clinic, ClinicId

SESSION = "01932c07-209c-7c8f-b09a-2b4c5d6e7f80"
BASE = "http://127.0.0.1:8080"


class Tokens:
    """``all`` may do everything, ``none`` nothing; anything else is no token."""

    async def verify(self, token: str) -> Principal:
        scopes = {"all": frozenset(Scope), "none": frozenset[Scope]()}.get(token)
        if scopes is None:
            raise AuthError("token_invalid", "the bearer token is refused")
        return Principal("dr.a", ClinicId("north"), scopes)


class Registry:
    async def find(self, clinic_id: ClinicId) -> Clinic | None:
        return Clinic(clinic_id, languages=("en-US", "ja-JP"))

    async def add(self, clinic: Clinic) -> None:
        raise AssertionError


def build(
    sessions: Any = None,
    store: Any = None,
    routes: list[BaseRoute] | None = None,
    console: Path = Path("/nonexistent"),
    **env: str,
) -> Starlette:
    settings = load(env)
    metrics = Metrics()
    app = Starlette(
        routes=[*(routes or []), *rest_routes(console)],
        middleware=middleware(settings, metrics),
    )
    app.state.services = SimpleNamespace(
        settings=settings,
        tokens=Tokens(),
        registry=Registry(),
        desk=sessions,
        catalog=sessions,
        store=store,
        metrics=metrics,
        engine=EngineCapabilities("pocketsphinx", frozenset({"en-US"})),
    )
    return app


@asynccontextmanager
async def client(app: Starlette, bearer: str | None = "all") -> AsyncIterator[httpx.AsyncClient]:
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    opening = httpx.AsyncClient(transport=transport, base_url=BASE, headers=headers)
    with capture_logs():
        async with opening as opened:
            yield opened


async def upgrade(app: Starlette, path: str, headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Everything the app sends to a WebSocket upgrade whose client says nothing more."""
    sent: list[dict[str, Any]] = []
    given = {"host": "127.0.0.1:8080", **(headers or {})}

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 5000),
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }
    with capture_logs():
        await app(scope, receive, send)
    return sent
