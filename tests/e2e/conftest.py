"""A server for the tests of a module, and one of their own for tests that end it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from audio.codec import read_audio
from tests.support.server import ServerProcess

StartServer = Callable[..., ServerProcess]


@pytest.fixture(scope="session")
def sample_pcm(sample_wav: Path) -> bytes:
    """The sample consultation: 16 kHz mono PCM."""
    return read_audio(sample_wav)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recorder(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """A server that records and transcribes nothing, for the tests of a module."""
    folder = tmp_path_factory.mktemp("recorder")
    async with ServerProcess(folder / "data", engine="null") as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def transcriber(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """A server with the embedded engine, for the tests of a module."""
    folder = tmp_path_factory.mktemp("transcriber")
    async with ServerProcess(folder / "data", engine="pocketsphinx") as server:
        yield server


@pytest_asyncio.fixture
async def server_factory(tmp_path: Path) -> AsyncIterator[StartServer]:
    """Makes servers that a test starts itself (``async with``) on a data folder of its own."""
    async with AsyncExitStack() as stack:

        def make(name: str = "data", **settings: str) -> ServerProcess:
            server = ServerProcess(tmp_path / name, environment=None, **settings)

            async def end() -> None:
                if server.running:
                    await server.kill()

            stack.push_async_callback(end)
            return server

        yield make
