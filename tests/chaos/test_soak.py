"""Many sessions at once lose nothing and take no more memory the longer they last. The long form is the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.bench.soak import soak
from tests.support.server import ServerProcess

SESSIONS = 50
SECONDS = 50.0


@pytest.mark.timeout(180)
async def test_fifty_sessions_at_once(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path / "data", engine="null") as server:
        report = await soak(server, SESSIONS, SECONDS)
        print(report)
        assert report.holds, str(report)
        assert await server.stop() == 0
