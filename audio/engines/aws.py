"""Amazon Transcribe Streaming in one region, through its WebSocket interface.

The SDK's HTTP/2 session takes seven times the CPU, hangs when a connection drops before the headers and ends silently when
one drops after them; a WebSocket fails by ordinary errors.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid4

from audio.engine import EngineCapabilities, EngineStream, StreamRequest, Unavailable
from audio.engines.aws_credentials import BotocoreCredentials, CredentialSource
from audio.engines.aws_options import LANGUAGES, AwsLimits, AwsOptions, query_of
from audio.engines.aws_signing import Credentials, endpoint_of, presigned_url
from audio.engines.aws_socket import connect
from audio.engines.aws_stream import FRAME_BYTES_MAX, AwsStream
from audio.pcm import samples_of

CAPABILITIES: Final = EngineCapabilities(
    name="aws",
    languages=LANGUAGES,
    speaker_labels=True,
    vocabularies=True,
    mute_seconds=5.0,
    # The longest frame that the engine sends: each costs a system call and a TLS record, and most of what sending costs.
    gather=samples_of(FRAME_BYTES_MAX),
)


def session_id_of(session: str, fresh: UUID) -> str:
    """The service's name for a new stream of a session: the session's own id, its last twelve digits made anew.

    So the streams of a session are found by its id, and none conflicts with an earlier one that the service has not yet let go.
    A session whose id is no UUID gets a new one altogether.
    """
    try:
        known = str(UUID(session))
    except ValueError:
        return str(fresh)
    return known[:24] + str(fresh)[24:]


class AwsRegion:
    """One region. It has no bound of its own: how many streams there may be is the region's quota, which tasks share."""

    def __init__(
        self,
        region: str,
        *,
        endpoint: str | None = None,
        options: AwsOptions | None = None,
        limits: AwsLimits | None = None,
        credentials: CredentialSource | None = None,
        context: ssl.SSLContext | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        """``endpoint``: ``wss://host[:port]`` instead of the region's own. ``now``: the wall clock of signatures.

        ``context``: by default one that trusts the system's authorities, or those of ``SSL_CERT_FILE``.
        """
        self.region: Final = region
        self._endpoint: Final = endpoint or endpoint_of(region)
        self._options: Final = options or AwsOptions()
        self._limits: Final = limits or AwsLimits()
        self._credentials: Final = credentials or BotocoreCredentials()
        self._context: Final = context or ssl.create_default_context()
        self._now: Final = now
        self._new_id: Final = new_id
        self._streams: Final[set[AwsStream]] = set()
        self._ticking: asyncio.TimerHandle | None = None
        self._closed = False
        # It tells of each connection, at the level of information.
        logging.getLogger("picows").setLevel(logging.WARNING)

    @property
    def capabilities(self) -> EngineCapabilities:
        return CAPABILITIES

    async def open(self, request: StreamRequest) -> EngineStream:
        query = query_of(request, self._options, session_id_of(request.session, self._new_id()))
        self._check()
        loop = asyncio.get_running_loop()
        latest = loop.time() + self._limits.open
        credentials = await self._fresh_credentials()
        now = self._now()
        url = presigned_url(self._endpoint, self.region, query, credentials, now=now)
        stream = AwsStream(self._limits, self._left)
        await connect(url, self._context, stream, max(0.0, latest - loop.time()), now)
        self._streams.add(stream)
        try:
            self._check()
        except Unavailable:
            await stream.close()
            raise
        if self._ticking is None:
            self._ticking = loop.call_later(self._limits.tick, self._tick)
        return stream

    def has_room(self) -> bool:
        return not self._closed

    async def close(self) -> None:
        self._closed = True
        for stream in tuple(self._streams):
            await stream.close()

    def _check(self) -> None:
        if self._closed:
            raise Unavailable("closed", "the engine was closed")

    async def _fresh_credentials(self) -> Credentials:
        try:
            async with asyncio.timeout(self._limits.credentials):
                return await self._credentials.fresh()
        except TimeoutError:
            raise Unavailable("credentials_timeout", "AWS credentials could not be had in time") from None

    def _left(self, stream: AwsStream) -> None:
        self._streams.discard(stream)
        if not self._streams and self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(self._limits.tick, self._tick)
        for stream in tuple(self._streams):
            stream.tick()
