"""Refusals as HTTP answers."""

from __future__ import annotations

from collections.abc import Collection
from http import HTTPStatus

from starlette.responses import Response
from starlette.types import Scope

from app.errors import PROBLEM_MEDIA, Refusal, Refused, problem_body, request_id_of, status_refusal


def problem_response(scope: Scope, reason: Refusal) -> Response:
    """The answer that tells ``reason``."""
    body = problem_body(reason, request_id_of(scope))
    return Response(body, reason.status, headers=dict(reason.headers), media_type=PROBLEM_MEDIA)


def not_found() -> Refused:
    """For a path under which there is nothing."""
    return Refused(status_refusal(HTTPStatus.NOT_FOUND, detail="there is nothing under this path"))


def method_not_allowed(allowed: Collection[str]) -> Refused:
    """For a path that has other methods only. HEAD comes with GET."""
    methods = {*allowed, *(["HEAD"] if "GET" in allowed else [])}
    headers = {"Allow": ", ".join(sorted(methods))}
    return Refused(
        status_refusal(HTTPStatus.METHOD_NOT_ALLOWED, headers, "this path has no such method; see Allow")
    )
