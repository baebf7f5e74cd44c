"""Two minutes of chaos; ``make chaos`` is the long form."""

from __future__ import annotations

from pathlib import Path

import pytest
import uvloop

from tests.chaos.ward.__main__ import seed
from tests.chaos.ward.rounds import chaos

SECONDS = 120.0


@pytest.mark.needs("haproxy", "redis-server")
@pytest.mark.timeout(420)
def test_two_minutes_of_chaos(tmp_path: Path) -> None:
    report = uvloop.run(chaos(tmp_path, seed(), SECONDS))
    print(report)
    assert report.faults == [], str(report)
