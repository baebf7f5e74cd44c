from __future__ import annotations

import ast
from pathlib import Path

import pytest

from loadtest.emulator.__main__ import options
from loadtest.emulator.sigv4 import Credentials

EMULATOR = Path(__file__).parents[3] / "loadtest" / "emulator"


@pytest.mark.parametrize("path", sorted(EMULATOR.glob("*.py")), ids=lambda path: path.stem)
def test_the_judge_knows_nothing_of_the_judged(path: Path) -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module or ".")
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    assert not {
        name
        for name in imported
        if name.partition(".")[0] in {"app", "audio", "tenants", "amazon_transcribe", "."}
    }


def test_the_command_line() -> None:
    assert (options([]).h2_port, options([]).ws_port, options([]).control_port) == (9443, 9444, 0)
    given = options(
        ["--key", "AKIDOTHER:S/+=:T", "--latency-ms", "20", "--max-streams", "3", "--vocabulary", "knee"]
    )
    assert given.keys == {"AKIDEXAMPLE": Credentials("SECRETEXAMPLE"), "AKIDOTHER": Credentials("S/+=", "T")}
    assert (given.rules.latency, given.quotas.max_streams, given.names.vocabularies) == (
        0.02,
        3,
        frozenset({"knee"}),
    )
    with pytest.raises(SystemExit):
        options(["--key", "AKIDOTHER"])
