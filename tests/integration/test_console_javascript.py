"""The page's own tests, in JavaScript: ``node --test tests/js``."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parents[1] / "js"


def test_the_pages_modules_pass_their_own_tests(need: Callable[[str], Path]) -> None:
    files = sorted(HERE.glob("*.test.mjs"))
    ran = subprocess.run([need("node"), "--test", *files], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
