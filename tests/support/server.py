"""A real server process for tests: started with settings, waited for, asked, signalled, started again."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from app.client.rest import RestClient

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0
_ADDRESS = re.compile(r"Kikitori is at (http://[^/#]+)")
_ADMIN = re.compile(r"metrics at (http://[^/]+)")


def clean_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process under test: nothing of ours but what ``settings`` say."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **settings}


class ServerProcess:
    """``python -m app serve`` on free loopback ports. ``async with`` starts it and ends whatever is left of it.

    Args:
        data_dir: its data folder, which outlives it.
        environment: variables that are not settings, such as ``AWS_ACCESS_KEY_ID``.
        settings: further ``KIKITORI_`` settings, without the prefix.
    """

    def __init__(
        self, data_dir: Path, *, environment: Mapping[str, str] | None = None, **settings: str
    ) -> None:
        self.data_dir = data_dir
        self.settings = {"KIKITORI_PORT": "0", "KIKITORI_ADMIN_PORT": "0", "KIKITORI_LOG_FORMAT": "json"}
        self.settings |= {f"KIKITORI_{name.upper()}": value for name, value in settings.items()}
        self.settings["KIKITORI_DATA_DIR"] = str(data_dir)
        self.environment = dict(environment or {})
        self.url = self.admin_url = ""
        self.log_path = data_dir.parent / f"{data_dir.name}.log"
        self._process: Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running:
            await self.kill()

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.returncode is None

    @property
    def process(self) -> Process:
        """The process; start it first."""
        assert self._process is not None
        return self._process

    def log(self) -> str:
        """All that was logged, over every start."""
        return self.log_path.read_text()

    async def start(self) -> None:
        """Start, and wait until the server says that it serves. A restart keeps the port."""
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "app", "serve",
                cwd=ROOT, env=clean_environment({**self.environment, **self.settings}), stdout=PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        async with asyncio.timeout(START_SECONDS):
            self.url = await self._line(_ADDRESS)
            self.admin_url = await self._line(_ADMIN)
        self.settings["KIKITORI_PORT"] = self.url.rpartition(":")[2]

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and return its exit status."""
        self.process.send_signal(number)
        return await self.process.wait()

    async def kill(self) -> None:
        """SIGKILL: nothing of it gets to say anything any more."""
        self.process.kill()
        await self.process.wait()

    async def command(self, *arguments: str) -> tuple[int, str, str]:
        """Run another command of the project with the same settings; (status, standard output, standard error)."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app", *arguments,
            cwd=ROOT, env=clean_environment({**self.environment, **self.settings}), stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def token(
        self, clinic: str = "demo", *, subject: str = "doctor", scopes: tuple[str, ...] = ()
    ) -> str:
        """A token of the development issuer."""
        wanted = [argument for scope in scopes for argument in ("--scope", scope)]
        status, out, err = await self.command("token", "--clinic", clinic, "--sub", subject, *wanted)
        assert status == 0, err
        return out.strip()

    async def rest(self, clinic: str = "demo", *, subject: str = "doctor") -> RestClient:
        """A REST client with a token of its own."""
        return RestClient(self.url, await self.token(clinic, subject=subject))

    async def _line(self, pattern: re.Pattern[str]) -> str:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            if found := pattern.search(line.decode()):
                return found[1]
        raise AssertionError(f"the server did not start:\n{self.log()}")


def log_lines(text: str) -> list[dict[str, object]]:
    """Log lines as objects; what is no JSON line is left out."""
    decode = msgspec.json.Decoder(dict[str, object]).decode
    return [decode(line) for line in text.splitlines() if line.startswith("{")]
