from __future__ import annotations

from typing import Any

import msgspec
import pytest

from app.archive.store import ObjectCorrupt, StoreUnavailable
from app.auth.entries import EntriesUnavailable
from app.auth.principal import AuthError, Forbidden
from app.auth.tokens import KeysUnavailable
from app.errors import Refused, problem_body, refusal, refused, reject_websocket, status_refusal
from app.events.hub import ClinicFull, HubDraining, HubFull
from app.events.log import LogUnavailable
from app.protocol.close import CloseCode
from app.sessions import errors
from app.sessions.index import IndexUnavailable
from tenants.registry import RegistryUnavailable

TABLE = [
    (AuthError("token_expired", "get a new one"), 401, "token_expired", CloseCode.ACCESS_ENDED),
    (Forbidden("unknown_clinic", "who?"), 403, "unknown_clinic", CloseCode.ROLE),
    (errors.NotTheSpeaker("not yours"), 403, "not_the_speaker", CloseCode.ROLE),
    (errors.SessionNotFound(), 404, "not_found", CloseCode.ROLE),
    (errors.SpeakerConnected("stop there"), 409, "speaker_connected", CloseCode.SUPERSEDED),
    (errors.NotFinished("wait"), 409, "not_finished", CloseCode.SUPERSEDED),
    (errors.NoAudio("none"), 409, "no_audio", CloseCode.SUPERSEDED),
    (errors.Superseded("newer"), 409, "superseded", CloseCode.SUPERSEDED),
    (errors.IdempotencyInFlight("wait"), 409, "idempotency_in_flight", CloseCode.SUPERSEDED),
    (errors.Unprocessable("language", "no such"), 422, "language", CloseCode.MALFORMED),
    (errors.Busy("full", "full", 7), 503, "full", CloseCode.DEPENDENCY),
    (errors.Busy("quota", "enough", 60), 429, "quota", CloseCode.QUOTA),
    (StoreUnavailable("north/x", "disk full"), 503, "archive_unavailable", CloseCode.DEPENDENCY),
    (IndexUnavailable("gone"), 503, "index_unavailable", CloseCode.DEPENDENCY),
    (RegistryUnavailable("clinics.json is broken"), 503, "registry_unavailable", CloseCode.DEPENDENCY),
    (LogUnavailable("gone"), 503, "log_unavailable", CloseCode.DEPENDENCY),
    (EntriesUnavailable("gone"), 503, "tickets_unavailable", CloseCode.DEPENDENCY),
    (HubFull(), 503, "full", CloseCode.DEPENDENCY),
    (ClinicFull(), 429, "quota", CloseCode.QUOTA),
    (HubDraining(), 503, "draining", CloseCode.DEPENDENCY),
    (KeysUnavailable("gone"), 503, "keys_unavailable", CloseCode.DEPENDENCY),
    (msgspec.ValidationError("Expected `str`"), 422, "invalid_body", CloseCode.MALFORMED),
    (msgspec.DecodeError("truncated"), 400, "malformed_json", CloseCode.MALFORMED),
    (ZeroDivisionError("a patient's words"), 500, "internal", CloseCode.INTERNAL),
    (ObjectCorrupt("north/x", "bad frame"), 500, "internal", CloseCode.INTERNAL),
]


@pytest.mark.parametrize(("error", "status", "code", "close"), TABLE, ids=lambda value: type(value).__name__)
def test_every_domain_error_has_its_answer(
    error: Exception, status: int, code: str, close: CloseCode
) -> None:
    reason = refusal(error)
    assert (reason.status, reason.code, reason.close_code) == (status, code, close)
    assert reason.detail


def test_no_session_error_was_forgotten() -> None:
    told = {type(error) for error, *_ in TABLE}
    assert told >= set(errors.SessionError.__subclasses__())


@pytest.mark.parametrize("error", [error for error, status, *_ in TABLE if status in {429, 503}])
def test_what_passes_says_when_to_come_back(error: Exception) -> None:
    seconds = error.retry_after if isinstance(error, errors.Busy) else 2
    assert refusal(error).headers["Retry-After"] == str(seconds)


def test_what_failed_inside_is_not_told() -> None:
    for error in (
        ZeroDivisionError("secret"),
        StoreUnavailable("secret", "secret"),
        RegistryUnavailable("secret"),
    ):
        assert "secret" not in problem_body(refusal(error), "id").decode()


def test_a_missing_token_is_asked_for_and_a_bad_one_is_called_so() -> None:
    assert refusal(AuthError("token_missing", "x")).headers == {"WWW-Authenticate": "Bearer"}
    assert refusal(AuthError("token_invalid", "x")).headers == {
        "WWW-Authenticate": 'Bearer error="invalid_token"'
    }


def test_only_what_passes_by_itself_is_retryable() -> None:
    retryable = {code for error, _, code, _ in TABLE if refusal(error).retryable}
    assert retryable == {
        "internal",
        "full",
        "draining",
        *(f"{what}_unavailable" for what in ("archive", "index", "registry", "log", "tickets", "keys")),
    }


def test_the_one_error_of_a_task_group_is_what_it_is() -> None:
    assert refusal(ExceptionGroup("tasks", [errors.NoAudio("none")])).code == "no_audio"
    assert refusal(ExceptionGroup("tasks", [errors.NoAudio("a"), errors.NoAudio("b")])).code == "internal"


def test_a_problem_has_every_member() -> None:
    body = msgspec.json.decode(problem_body(refusal(errors.SessionNotFound()), "r-1"))
    assert body == {
        "type": "urn:kikitori:problem:not_found",
        "title": "No such session",
        "status": 404,
        "detail": "the clinic has no session with this id",
        "code": "not_found",
        "requestId": "r-1",
    }


def test_where_the_status_says_all_the_type_is_blank() -> None:
    body = msgspec.json.decode(problem_body(status_refusal(405, {"Allow": "GET"}), "r"))
    assert (body["type"], body["title"], body["code"]) == (
        "about:blank",
        "Method Not Allowed",
        "method_not_allowed",
    )


async def rejected(scope: dict[str, Any]) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await reject_websocket(scope, send, refusal(errors.Busy("draining", "elsewhere", 3)))
    return sent


async def test_an_upgrade_is_refused_as_http() -> None:
    start, body = await rejected(
        {"type": "websocket", "state": {"request_id": "r-9"}, "extensions": {"websocket.http.response": {}}}
    )
    assert start["status"] == 503
    assert dict(start["headers"])[b"retry-after"] == b"3"
    assert dict(start["headers"])[b"content-type"] == b"application/problem+json"
    assert int(dict(start["headers"])[b"content-length"]) == len(body["body"])
    assert msgspec.json.decode(body["body"])["requestId"] == "r-9"


async def test_a_server_that_cannot_refuse_as_http_closes() -> None:
    assert await rejected({"type": "websocket"}) == [
        {"type": "websocket.close", "code": 4503, "reason": "draining"}
    ]


def test_the_edges_own_refusals_are_themselves() -> None:
    error = refused(413, "body_too_large", "64 KiB")
    assert isinstance(error, Refused)
    assert refusal(error) is error.refusal
