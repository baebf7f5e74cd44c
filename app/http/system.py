"""The calls about the server itself."""

from __future__ import annotations

from starlette.responses import Response

from app.auth.tickets import PROTOCOL
from app.http.calls import Call, Nothing
from app.http.sessions import json
from app.protocol.rest import ConfigView, HealthView, SignIn
from audio.pcm import FRAME_BYTES_MAX, FRAME_BYTES_MIN, SAMPLE_RATE

_LIMITS = {"sampleRate": SAMPLE_RATE, "frameBytesMin": FRAME_BYTES_MIN, "frameBytesMax": FRAME_BYTES_MAX}
RETRY_SECONDS = 2


async def config(call: Call[Nothing, Nothing]) -> Response:
    """``GET /v1/config``: what the page needs before sign-in, and with a token what the clinic may use."""
    engine = call.services.engine
    languages = sorted(engine.languages)
    caller = call.caller
    if caller is not None:
        clinic = await call.services.registry.find(caller.clinic_id)
        own = clinic.languages if clinic else ()
        languages = [tag for tag in own if not languages or tag in engine.languages] if own else languages
    answer = ConfigView(
        protocol=PROTOCOL,
        engine=engine.name,
        languages=languages,
        sign_in=SignIn(mode="development"),
        limits=_LIMITS,
        clinic_id=caller.clinic_id if caller else None,
        consent_required=False if caller else None,
    )
    return json(answer)


async def health(_call: Call[Nothing, Nothing]) -> Response:
    """``GET /healthz``: answering at all is the answer."""
    return json(HealthView("ok"))


async def ready(call: Call[Nothing, Nothing]) -> Response:
    """``GET /readyz``."""
    checks = call.services.catalog.checks()
    if checks.status == "ready":
        return json(checks)
    return json(checks, 503, {"Retry-After": str(RETRY_SECONDS)})
