"""The page: files that a browser may run, under a policy that lets them do nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from app.http.problems import method_not_allowed, not_found

FILES: Final = Path(__file__).parent.parent / "console" / "static"

_POLICY: Final = (
    "default-src 'self'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
    "media-src 'self' blob:; connect-src 'self' {websocket}; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)


class Console:
    """An ASGI application for one folder: the ``path`` of the route, or the page itself."""

    def __init__(self, directory: Path) -> None:
        self._files = StaticFiles(directory=directory, check_dir=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a file.

        Raises:
            Refused: 404 or 405.
        """
        request = Request(scope, receive)
        if request.method not in {"GET", "HEAD"}:
            raise method_not_allowed({"GET"})
        try:
            response = await self._files.get_response(request.path_params.get("path") or "index.html", scope)
        except HTTPException:
            raise not_found() from None
        response.headers["Cache-Control"] = "no-cache"
        response.headers["Content-Security-Policy"] = _policy(request)
        response.headers["Permissions-Policy"] = "microphone=(self)"
        await response(scope, receive, send)


def console_routes(directory: Path = FILES) -> list[BaseRoute]:
    """``/`` and ``/console/...``."""
    console = Console(directory)
    return [Route("/", console), Route("/console/{path:path}", console)]


def _policy(request: Request) -> str:
    # Older browsers do not count a socket to the page's own origin as 'self'. The gate knows this Host.
    secure = request.app.state.services.settings.public_url.startswith("https:")
    return _POLICY.format(websocket=f"{'wss' if secure else 'ws'}://{request.headers['host']}")
