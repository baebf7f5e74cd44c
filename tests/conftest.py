"""What every test has: no network for the pure ones, one way to ask for a program, Hypothesis profiles."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

HERE = Path(__file__).parent
IN_CI = os.environ.get("CI") == "true"

settings.register_profile("default", deadline=None)
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if IN_CI else "default")


def require(program: str) -> Path:
    """Where ``program`` is; without it the test is skipped with one plain line, or fails in CI."""
    found = shutil.which(program)
    if found is not None:
        return Path(found)
    line = f"needs {program}: run scripts/system-deps (Debian: apt-get install {program})"
    if IN_CI:
        pytest.fail(line, pytrace=False)
    pytest.skip(line)


@pytest.fixture(scope="session")
def need() -> Callable[[str], Path]:
    """``need("redis-server")`` gives the program's path, or skips."""
    return require


@pytest.fixture(scope="session")
def sample_wav() -> Path:
    """The sample consultation; its script stands beside it, ``.txt``."""
    return HERE / "data" / "consultation.wav"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of pure code can open no socket (but the event loop its own socket pair); all of chaos is long."""
    for item in items:
        room = item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""
        if room in {"unit", "property"}:
            item.add_marker(pytest.mark.disable_socket)
        if room == "chaos":
            item.add_marker(pytest.mark.long)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Honour ``@pytest.mark.needs("chromium")``."""
    for marker in item.iter_markers("needs"):
        for program in marker.args:
            require(program)
