"""The two ASGI applications: the public one, and the operator's on the admin address."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from app.http.middleware import middleware
from app.http.routes import rest_routes
from app.services import Services
from app.ws.observers import ObserverEndpoint
from app.ws.speaker import SpeakerEndpoint


def public_app(services: Services) -> Starlette:
    """REST, sockets and the page."""
    app = Starlette(
        routes=[
            WebSocketRoute("/v1/sessions/{session_id}/stream", SpeakerEndpoint()),
            WebSocketRoute("/v1/events", ObserverEndpoint()),
            *rest_routes(),
        ],
        middleware=middleware(services.settings, services.metrics),
    )
    app.state.services = services
    return app


def admin_app(services: Services) -> Starlette:
    """``/metrics`` for Prometheus; never on the public port."""

    async def metrics(_request: Request) -> Response:
        body, content_type = services.metrics.render()
        return Response(body, headers={"Content-Type": content_type})

    return Starlette(routes=[Route("/metrics", metrics)])
