from __future__ import annotations

import ipaddress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from app.auth.tickets import IssuedTicket
from app.http.proxies import caller_address
from app.protocol.rest import CreateSession, FinalView, ReadyView, SessionItem, SessionPage, TranscriptView
from app.sessions.errors import Busy, SpeakerConnected
from app.sessions.index import SessionQuery
from tests.support.edge import SESSION, build, client, upgrade

ITEM = SessionItem(SESSION, "north", "created", "en-US", "2026-11-20T09:00:00.000Z", "dr.a")
TICKET = IssuedTicket("a.b.c", "2026-11-20T09:01:00Z")


class Sessions:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.status = "ready"

    async def create(self, principal: Any, request: CreateSession, idempotency_key: str | None) -> Any:
        self.asked.append((request, idempotency_key))
        if request.language == "xx":
            raise Busy("full", "all places are taken", 9)
        return SimpleNamespace(item=ITEM, ticket=TICKET)

    async def ticket(self, principal: Any, session_id: str, role: str) -> IssuedTicket:
        self.asked.append((session_id, role))
        return TICKET

    async def clinic_ticket(self, principal: Any) -> IssuedTicket:
        return TICKET

    async def page(self, principal: Any, query: SessionQuery) -> SessionPage:
        self.asked.append(query)
        return SessionPage([ITEM], None)

    async def stop(self, principal: Any, session_id: str) -> None:
        raise SpeakerConnected("its speaker is connected")

    async def view(self, principal: Any, session_id: str) -> Any:
        raise ZeroDivisionError("what a patient said")

    async def transcript(self, principal: Any, session_id: str) -> TranscriptView:
        final = FinalView(1, "f", 16_000, 32_000, "good morning", [], "en-US")
        return TranscriptView(session_id, "en-US", "live", 48_000, [final])

    def checks(self) -> ReadyView:
        return ReadyView(self.status, {"redis": "ok"})  # type: ignore[arg-type]


def problem_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert set(body) == {"type", "title", "status", "detail", "code", "requestId"}
    assert (body["code"], body["status"]) == (code, status)
    assert body["requestId"] == answer.headers["x-request-id"]
    return body


async def ask(
    method: str, path: str, bearer: str | None = "all", app: Any = None, **more: Any
) -> httpx.Response:
    async with client(app or build(Sessions()), bearer) as http:
        return await http.request(method, path, **more)


async def test_every_answer_has_an_id_and_guards_the_browser() -> None:
    answer = await ask("GET", "/healthz", bearer=None)
    assert answer.json() == {"status": "ok"}
    assert len(answer.headers["x-request-id"]) == 32
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert "strict-transport-security" not in answer.headers


async def test_a_callers_own_id_is_kept_if_it_is_harmless() -> None:
    for sent, kept in [
        ("trace-1.a_B", True),
        ("a b", False),
        ("x" * 65, False),
        ("<script>", False),
        ("", False),
    ]:
        answer = await ask("GET", "/healthz", headers={"X-Request-ID": sent})
        assert (answer.headers["x-request-id"] == sent) is kept


async def test_unknown_paths_and_methods_are_problems() -> None:
    problem_of(await ask("GET", "/v2/sessions"), 404, "not_found")
    answer = await ask("DELETE", "/v1/sessions")
    problem_of(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:9999", "127.0.0.1", ""])
async def test_a_foreign_host_is_refused_everywhere_but_for_health(host: str) -> None:
    problem_of(await ask("GET", "/v1/config", headers={"Host": host}), 403, "host_not_allowed")
    assert (await ask("GET", "/healthz", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "LOCALHOST:8080", "[::1]:8080"])
async def test_its_own_hosts_are_answered(host: str) -> None:
    assert (await ask("GET", "/v1/config", headers={"Host": host})).status_code == 200


async def test_behind_a_proxy_the_schemes_port_may_be_told_or_not() -> None:
    app = build(Sessions(), KIKITORI_PUBLIC_URL="https://a.example")
    for host in ("a.example", "a.example:443"):
        answer = await ask(
            "GET", "/v1/config", app=app, headers={"Host": host, "Origin": "https://a.example"}
        )
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"]
    problem_of(
        await ask("GET", "/v1/config", app=app, headers={"Host": "b.example"}), 403, "host_not_allowed"
    )


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:8080", "http://127.0.0.1:8080.x"]
)
async def test_a_foreign_origin_is_refused(origin: str) -> None:
    problem_of(await ask("GET", "/v1/config", headers={"Origin": origin}), 403, "origin_not_allowed")
    problem_of(await ask("GET", "/healthz", headers={"Origin": origin}), 403, "origin_not_allowed")
    start, _ = await upgrade(build(), "/v1/events", {"origin": origin})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 403)


async def test_its_own_pages_may_call() -> None:
    assert (await ask("GET", "/v1/config", headers={"Origin": "http://localhost:8080"})).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/sessions/nothing",
        f"/v1/sessions/{SESSION.upper()}",
        f"/v1/sessions/{SESSION}x",
        f"/v1/sessions/{SESSION}%0a",
        f"/v1/sessions/{SESSION.replace('-', '')}",
        f"/v1/sessions/{SESSION[:14]}4{SESSION[15:]}",
        f"/v1/sessions/{SESSION}%2ftranscript",
        "/v1/sessions/..%2F..%2Fetc",
        "/v1/sessions/%2e%2e/transcript",
        "/v1/sessions/%00",
        f"/v1/sessions/{SESSION}%5c..",
        "/console/..%2findex.html",
    ],
)
async def test_what_is_no_session_id_is_not_found_before_anybody_is_asked(path: str) -> None:
    # Neither sessions nor a store stand behind this app: asking them would be a 500.
    problem_of(await ask("GET", path, app=build()), 404, "not_found")


async def test_dots_in_a_raw_path_are_not_found() -> None:
    app = build()
    for path in (f"/v1/sessions/../sessions/{SESSION}", "/v1/sessions/..", "/console/../x"):
        sent: list[Any] = []

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request"}

        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"localhost:8080"), (b"authorization", b"Bearer all")],
            "client": None,
        }
        await app(scope, receive, send)
        assert sent[0]["status"] == 404


async def test_who_calls_comes_first() -> None:
    for path in ("/v1/sessions", f"/v1/sessions/{SESSION}", f"/v1/sessions/{SESSION}/audio"):
        answer = await ask("GET", path, bearer=None)
        problem_of(answer, 401, "token_missing")
        assert answer.headers["www-authenticate"] == "Bearer"
        problem_of(await ask("GET", path, bearer="bad"), 401, "token_invalid")
        problem_of(await ask("GET", path, bearer="none"), 403, "insufficient_scope")


async def test_config_is_for_anybody_more_for_a_caller_and_not_for_a_bad_token() -> None:
    anybody = (await ask("GET", "/v1/config", bearer=None)).json()
    assert anybody["languages"] == ["en-US"]
    assert anybody["signIn"]["mode"] == "development"
    assert "clinicId" not in anybody
    caller = (await ask("GET", "/v1/config")).json()
    assert (caller["clinicId"], caller["consentRequired"], caller["languages"]) == ("north", False, ["en-US"])
    problem_of(await ask("GET", "/v1/config", bearer="bad"), 401, "token_invalid")


async def test_a_session_is_created_with_everything_to_go_on() -> None:
    sessions = Sessions()
    answer = await ask(
        "POST",
        "/v1/sessions",
        app=build(sessions),
        json={"language": "en-US", "speakerLabels": True},
        headers={"Idempotency-Key": "k-1"},
    )
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/sessions/{SESSION}"
    assert answer.json() == {
        "sessionId": SESSION,
        "clinicId": "north",
        "state": "created",
        "streamUrl": f"ws://127.0.0.1:8080/v1/sessions/{SESSION}/stream",
        "ticket": "a.b.c",
        "ticketExpiresAt": "2026-11-20T09:01:00Z",
        "protocol": "kikitori.v1",
    }
    request, key = sessions.asked[0]
    assert (request.speaker_labels, key) == (True, "k-1")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_json"),
        (b"{", 400, "malformed_json"),
        (b'{"language":"\xff"}', 400, "malformed_json"),
        (b"[" * 60_000, 422, "invalid_body"),
        (b"[]", 422, "invalid_body"),
        (b"{}", 422, "invalid_body"),
        (b'{"language":"en-US","langauge":"x"}', 422, "invalid_body"),
        (b'{"language":"../x"}', 422, "invalid_body"),
        (b'{"language":"en-US","title":"' + b"x" * 201 + b'"}', 422, "invalid_body"),
        (b'{"language":"en-US","pad":"' + b"x" * 65_536 + b'"}', 413, "body_too_large"),
        (b'{"language":"xx"}', 503, "full"),
    ],
)
async def test_a_body_that_will_not_do_says_why(body: bytes, status: int, code: str) -> None:
    problem_of(await ask("POST", "/v1/sessions", content=body), status, code)


async def test_an_unusable_idempotency_key_is_refused() -> None:
    for key in ("", "a b", "x" * 256):
        answer = await ask(
            "POST", "/v1/sessions", json={"language": "en-US"}, headers={"Idempotency-Key": key}
        )
        problem_of(answer, 422, "invalid_idempotency_key")


async def test_what_passes_says_when_to_come_back() -> None:
    answer = await ask("POST", "/v1/sessions", json={"language": "xx"})
    assert answer.headers["retry-after"] == "9"


async def test_tickets_lead_where_they_are_good() -> None:
    path = f"/v1/sessions/{SESSION}/tickets"
    base = "ws://127.0.0.1:8080/v1"
    speaker = await ask("POST", path, json={"role": "speaker"})
    assert (speaker.status_code, speaker.json()["streamUrl"]) == (201, f"{base}/sessions/{SESSION}/stream")
    observer = await ask("POST", path, json={"role": "observer"})
    assert observer.json()["streamUrl"] == f"{base}/events?session={SESSION}"
    assert (await ask("POST", "/v1/clinic/tickets")).json()["streamUrl"] == f"{base}/events"
    problem_of(await ask("POST", path, json={"role": "owner"}), 422, "invalid_body")
    problem_of(await ask("POST", path, bearer="none", json={"role": "speaker"}), 403, "insufficient_scope")
    secure = build(Sessions(), KIKITORI_PUBLIC_URL="https://a.example")
    answer = await ask("POST", "/v1/clinic/tickets", app=secure, headers={"Host": "a.example"})
    assert answer.json()["streamUrl"] == "wss://a.example/v1/events"


async def test_a_list_is_asked_for_as_it_is_kept() -> None:
    sessions = Sessions()
    path = "/v1/sessions?state=live&from=2026-11-20T09:00:00%2B09:00&to=&q=a%20b&externalId=&cursor=&limit=7"
    assert (await ask("GET", path, app=build(sessions))).status_code == 200
    assert sessions.asked == [
        SessionQuery(state="live", created_from="2026-11-20T00:00:00.000Z", title_contains="a b", limit=7)
    ]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "state=gone", "from=yesterday", "from=2026-11-20T09:00:00", "sate=live",
              "limit=1&limit=2"],
)  # fmt: skip
async def test_a_query_that_will_not_do_is_refused(query: str) -> None:
    problem_of(await ask("GET", f"/v1/sessions?{query}"), 422, "invalid_query")


async def test_domain_errors_and_bugs_are_problems_and_bugs_tell_nothing() -> None:
    problem_of(await ask("POST", f"/v1/sessions/{SESSION}/stop"), 409, "speaker_connected")
    answer = await ask("GET", f"/v1/sessions/{SESSION}")
    problem_of(answer, 500, "internal")
    assert "patient" not in answer.text


@pytest.mark.parametrize(
    ("form", "media", "begins"),
    [
        ("", "application/json", '{"sessionId"'),
        ("?format=txt", "text/plain; charset=utf-8", "[00:01] good morning"),
        ("?format=srt", "application/x-subrip; charset=utf-8", "1\n00:00:01,000"),
        ("?format=vtt", "text/vtt; charset=utf-8", "WEBVTT"),
    ],
)
async def test_a_transcript_comes_in_every_form(form: str, media: str, begins: str) -> None:
    answer = await ask("GET", f"/v1/sessions/{SESSION}/transcript{form}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, media)
    assert answer.text.startswith(begins)
    problem_of(await ask("GET", f"/v1/sessions/{SESSION}/transcript?format=pdf"), 422, "invalid_query")


async def test_readiness_is_also_told_in_the_status() -> None:
    sessions = Sessions()
    assert (await ask("GET", "/readyz", bearer=None, app=build(sessions))).status_code == 200
    sessions.status = "draining"
    answer = await ask("GET", "/readyz", bearer=None, app=build(sessions))
    assert (answer.status_code, answer.json()["status"]) == (503, "draining")
    assert answer.headers["retry-after"]


async def test_a_websocket_is_asked_for_as_one() -> None:
    for path in ("/v1/events", f"/v1/sessions/{SESSION}/stream"):
        answer = await ask("GET", path)
        problem_of(answer, 426, "upgrade_required")
        assert answer.headers["upgrade"] == "websocket"


async def test_an_upgrade_elsewhere_is_not_found() -> None:
    start, body = await upgrade(build(), "/v1/sessions")
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 404)
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"application/problem+json"
    assert msgspec.json.decode(body["body"])["requestId"].encode() == headers[b"x-request-id"]


async def _fails_before(socket: WebSocket) -> None:
    raise Busy("full", "all places are taken", 4)


async def _fails_after(socket: WebSocket) -> None:
    await socket.accept()
    raise ZeroDivisionError


async def test_a_socket_that_fails_is_refused_or_closed() -> None:
    app = build(routes=[WebSocketRoute("/before", _fails_before), WebSocketRoute("/after", _fails_after)])
    start, _ = await upgrade(app, "/before")
    assert (start["status"], dict(start["headers"])[b"retry-after"]) == (503, b"4")
    accept, close = await upgrade(app, "/after")
    assert b"x-request-id" in dict(accept["headers"])
    assert (close["type"], close["code"]) == ("websocket.close", 4500)


async def test_a_refusal_of_a_full_server_takes_the_balancers_cookie_back() -> None:
    routes: list[BaseRoute] = [
        WebSocketRoute("/before", _fails_before),
        WebSocketRoute("/after", _fails_after),
    ]
    cookie = "AWSALB=; Max-Age=0; Path=/"
    sticky = build(Sessions(), routes=routes, KIKITORI_STICKY_COOKIE="AWSALB")
    full = await ask("POST", "/v1/sessions", app=sticky, content=b'{"language":"xx"}')
    problem_of(full, 503, "full")
    assert full.headers["set-cookie"] == cookie
    start, _ = await upgrade(sticky, "/before")
    assert dict(start["headers"])[b"set-cookie"] == cookie.encode()
    # Another server would refuse these as well.
    for method, path in (("GET", f"/v1/sessions/{SESSION}"), ("POST", f"/v1/sessions/{SESSION}/stop")):
        assert "set-cookie" not in (await ask(method, path, app=sticky)).headers
    plain = await ask("POST", "/v1/sessions", content=b'{"language":"xx"}')
    assert plain.status_code == 503
    assert "set-cookie" not in plain.headers


async def _breaks_off(_request: Request) -> Response:
    async def body() -> Any:
        yield b"a part"
        raise ZeroDivisionError

    return StreamingResponse(body())


async def test_an_answer_that_breaks_off_does_not_look_whole() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    headers = [(b"host", b"localhost:8080")]
    scope = {"type": "http", "method": "GET", "path": "/x", "query_string": b"", "headers": headers, "client": None,
             "asgi": {"spec_version": "2.4"}}  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        await build(routes=[Route("/x", _breaks_off)])(scope, receive, send)
    assert all(message.get("more_body") for message in sent[1:])


async def test_requests_are_counted_by_template() -> None:
    app = build(Sessions())
    await ask("GET", f"/v1/sessions/{SESSION}", app=app)
    await ask("GET", "/nowhere/else", app=app)
    await upgrade(app, "/v1/nothing")
    text = app.state.services.metrics.render()[0].decode()
    assert '{method="GET",route="/v1/sessions/{session_id}",status="500"} 1.0' in text
    assert 'route="unmatched",status="404"} 2.0' in text
    assert SESSION not in text
    assert "nowhere" not in text


@pytest.fixture
def console(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "app.js").write_text("export {}")
    (tmp_path.parent / "secret.txt").write_text("secret")
    return tmp_path


async def test_the_page_may_talk_to_its_own_server_only(console: Path) -> None:
    for path, kind in [("/", "text/html"), ("/console/app.js", "javascript"), ("/console/", "text/html")]:
        answer = await ask("GET", path, bearer=None, app=build(console=console))
        assert answer.status_code == 200
        assert kind in answer.headers["content-type"]
        assert answer.headers["cache-control"] == "no-cache"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "connect-src 'self' ws://127.0.0.1:8080;" in policy
        assert "unsafe" not in policy


async def test_the_page_is_fetched_again_only_when_it_changed(console: Path) -> None:
    app = build(console=console)
    etag = (await ask("GET", "/", bearer=None, app=app)).headers["etag"]
    assert (await ask("GET", "/", bearer=None, app=app, headers={"If-None-Match": etag})).status_code == 304


@pytest.mark.parametrize("path", ["/console/nothing.js", "/console/..%2fsecret.txt", "/console//etc/passwd"])
async def test_nothing_but_the_page_is_served(console: Path, path: str) -> None:
    problem_of(await ask("POST", "/", bearer=None, app=build(console=console)), 405, "method_not_allowed")
    problem_of(await ask("GET", path, bearer=None, app=build(console=console)), 404, "not_found")


TRUSTED = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "::1/128")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        ("203.0.113.5", [], "203.0.113.5"),
        ("203.0.113.5", ["1.2.3.4"], "203.0.113.5"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["6.6.6.6", "1.2.3.4, 10.9.9.9"], "1.2.3.4"),
        ("::1", ["6.6.6.6, 1.2.3.4:555, [::1]:80"], "1.2.3.4"),
        ("::ffff:10.0.0.1", ["2001:db8::7"], "2001:db8::7"),
        ("10.0.0.1", ["1.2.3.4, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["1.2.3.4, bogus, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", [""], "10.0.0.1"),
        (None, ["1.2.3.4"], None),
    ],
)
def test_the_caller_is_the_rightmost_that_is_no_trusted_proxy(
    peer: str | None, forwarded: list[str], caller: str | None
) -> None:
    assert caller_address(peer, forwarded, TRUSTED) == caller
