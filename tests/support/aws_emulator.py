"""The emulator of Amazon Transcribe in a process of its own, and an engine that uses it."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from audio.engines.aws import AwsRegion
from audio.engines.aws_signing import Credentials

KEYS = Credentials("AKIDEXAMPLE", "SECRETEXAMPLE")


class Static:
    """Credentials that never change."""

    def __init__(self, credentials: Credentials = KEYS) -> None:
        self._credentials = credentials

    async def fresh(self) -> Credentials:
        return self._credentials


@dataclass
class Emulator:
    """Where it listens, and how it is told what goes wrong."""

    port: int
    control: int
    authority: Path

    @property
    def endpoint(self) -> str:
        return f"wss://localhost:{self.port}"

    def engine(self, **more: Any) -> AwsRegion:
        """An engine that trusts it and has its key."""
        settings: dict[str, Any] = {
            "endpoint": self.endpoint,
            "credentials": Static(),
            "context": ssl.create_default_context(cafile=str(self.authority)),
            "now": lambda: datetime.now(UTC),
        }
        return AwsRegion("us-east-1", **(settings | more))

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """A control call."""
        answer = httpx.request(method, f"http://127.0.0.1:{self.control}{path}", json=body, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def arm(self, kind: str, **fault: Any) -> None:
        """Have this go wrong in the next stream."""
        self.call("POST", "/faults", {"kind": kind, **fault})

    def disarm(self) -> None:
        """Nothing goes wrong any more."""
        self.call("DELETE", "/faults")


@contextmanager
def started(folder: Path, *options: str) -> Iterator[Emulator]:
    """Start it with these options; it is gone afterwards."""
    authority = folder / "ca.pem"
    ports = ("--h2-port", "0", "--ws-port", "0", "--ca-out", str(authority))
    command = [sys.executable, "-m", "loadtest.emulator", *ports, *options]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline().split()
            assert ready[:1] == ["ready"], ready
            found = dict(part.split("=") for part in ready[1:])
            yield Emulator(int(found["ws"]), int(found["control"]), authority)
        finally:
            process.terminate()
            process.wait(10)
