"""Two servers with one Redis, one archive and the emulator of Amazon Transcribe; speech whose finals come quickly."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import msgspec
import numpy as np

from app.client.session import StreamOptions
from app.protocol.messages import Ready
from app.protocol.rest import SessionCreated
from tests.support.aws_emulator import KEYS, Emulator
from tests.support.redis_cluster import free_ports
from tests.support.server import ServerProcess
from tests.support.speaking import Person, Speaking

LOUD_SAMPLES = 16_000
QUIET_SAMPLES = 11_200
"""The emulator ends an utterance after half a second of quiet."""

UTTERANCE_SECONDS = (LOUD_SAMPLES + QUIET_SAMPLES) / 16_000


def utterances(count: int, seed: int = 1) -> bytes:
    """PCM in which a final is heard every ``UTTERANCE_SECONDS``; each has words of its own."""
    noise = np.random.default_rng(seed).normal(0.0, 3_000.0, (count, LOUD_SAMPLES)).clip(-32_000, 32_000)
    quiet = np.zeros((count, QUIET_SAMPLES))
    return np.concatenate([noise, quiet], axis=1).astype("<i2").tobytes()


@dataclass(frozen=True)
class Pair:
    """The two servers. Tokens of one are good at the other."""

    servers: tuple[ServerProcess, ServerProcess]

    @asynccontextmanager
    async def people(self, clinic: str) -> AsyncIterator[tuple[Person, Person]]:
        """Somebody of a clinic at each."""
        first, second = self.servers
        token = await first.token(clinic)
        async with Person(first, clinic, token) as a, Person(second, clinic, token) as b:
            yield a, b


@asynccontextmanager
async def two_servers(
    folder: Path, redis_url: str, emulator: Emulator, *, door: int | None = None, **settings: str
) -> AsyncIterator[Pair]:
    """Two servers on one data folder. ``door``: a port of the loopback address that may lead to either."""
    environment = {
        "SSL_CERT_FILE": str(emulator.authority),
        "AWS_ACCESS_KEY_ID": KEYS.access_key,
        "AWS_SECRET_ACCESS_KEY": KEYS.secret_key,
    }
    settings = {
        "engine": "aws",
        "transcribe_endpoint": emulator.endpoint,
        "redis_url": redis_url,
        "segment_seconds": "1",
        **settings,
    }
    async with AsyncExitStack() as stack:
        servers = []
        for task, port in zip(("a", "b"), free_ports(2), strict=True):
            if door is not None:
                hosts = f"127.0.0.1:{port},127.0.0.1:{door}"
                settings |= {"port": str(port), "allowed_hosts": hosts}
            server = ServerProcess(folder / "data", environment=environment, task_id=task, **settings)
            server.log_path = folder / f"{task}.log"
            servers.append(await stack.enter_async_context(server))
        yield Pair((servers[0], servers[1]))


def talking(person: Person, created: SessionCreated, pcm: bytes) -> Speaking:
    """A speaker of ``pcm`` who takes as long as it lasts."""
    return person.speaking(created, pcm, StreamOptions(realtime=True))


def resuming(person: Person, created: SessionCreated, before: Speaking, pcm: bytes) -> Speaking:
    """The same speaker at this person's server, with the resume ticket that was given last and nothing else kept."""
    ticket = next(event.resume_ticket for event in reversed(before.events) if isinstance(event, Ready))
    url = urlunsplit(urlsplit(created.stream_url)._replace(netloc=urlsplit(person.server.url).netloc))
    return talking(person, msgspec.structs.replace(created, ticket=ticket, stream_url=url), pcm)
