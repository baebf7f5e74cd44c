"""Amazon's own clients, unmodified, against the emulator: each completes a transcription, is refused, and sees each fault."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
JS_SDK = ROOT / "tests" / "js_sdk"
AUDIO_SECONDS = 10
PATIENCE = 3.0
PACE = 0.005
"""Seconds between chunks of 100 ms: twenty times as fast as speech."""


@dataclass(frozen=True)
class Emulator:
    """One in a process of its own."""

    url: str
    control: str
    ca: Path
    pcm: Path

    def call(self, method: str, path: str, body: object = None) -> Any:
        answer = httpx.request(method, self.control + path, json=body)
        answer.raise_for_status()
        return answer.json()


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory, sample_wav: Path) -> Iterator[Emulator]:
    folder = tmp_path_factory.mktemp("emulator")
    with wave.open(str(sample_wav)) as file:
        (folder / "a.pcm").write_bytes(file.readframes(AUDIO_SECONDS * 16_000))
    arguments = ["--h2-port", "0", "--ws-port", "0", "--ca-out", str(folder / "ca.pem")]
    command = [sys.executable, "-m", "loadtest.emulator", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            word, *ports = process.stdout.readline().split()
            assert word == "ready"
            at = dict(port.split("=") for port in ports)
            url, control = f"https://localhost:{at['h2']}", f"http://127.0.0.1:{at['control']}"
            yield Emulator(url, control, folder / "ca.pem", folder / "a.pcm")
        finally:
            process.terminate()
            assert process.wait(10) == 0


@pytest.fixture(scope="module")
def js_sdk(need: Callable[[str], Path]) -> Path:
    """The script of the JavaScript client, its packages installed as the lock file says, once."""
    need("node")
    npm = need("npm")
    lock = JS_SDK / "package-lock.json"
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = JS_SDK / "node_modules" / ".installed"
        wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
        if not done.exists() or done.read_text() != wanted:
            command = [str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            found = subprocess.run(
                command, cwd=JS_SDK, capture_output=True, text=True, check=False, timeout=300
            )
            if found.returncode:
                fail = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
                fail(f"npm ci could not install Amazon's JavaScript client: {found.stderr.strip()[-200:]}")
            done.write_text(wanted)
    return JS_SDK / "transcribe.mjs"


@pytest.fixture(params=["python", "javascript"])
def client(request: pytest.FixtureRequest) -> list[str]:
    """The command of one of the clients."""
    if request.param == "python":
        return [sys.executable, str(ROOT / "tests" / "support" / "amazon_client.py")]
    return ["node", "--no-warnings", str(request.getfixturevalue("js_sdk"))]


async def transcribe(client: list[str], emulator: Emulator, **more: object) -> dict[str, Any]:
    """What the client says of one stream."""
    wanted = {
        "endpoint": emulator.url,
        "secret": "SECRETEXAMPLE",
        "pcm": str(emulator.pcm),
        "session": "",
        "pace": PACE,
        "patience": PATIENCE,
        **more,
    }
    trust = {"SSL_CERT_FILE": str(emulator.ca), "NODE_EXTRA_CA_CERTS": str(emulator.ca)}
    process = await asyncio.create_subprocess_exec(
        *client, json.dumps(wanted), env={**os.environ, **trust}, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 40)
    told: dict[str, Any] = json.loads(out.decode().splitlines()[-1])
    return told


async def nothing_is_open(emulator: Emulator) -> None:
    """A connection may linger for a second after its stream."""
    for _ in range(50):
        counters = emulator.call("GET", "/counters")
        if not counters["open_streams"] and not counters["open_connections"]:
            return
        await asyncio.sleep(0.1)
    pytest.fail("a stream or a connection has stayed open")


@pytest.fixture(autouse=True)
def no_armed_faults(emulator: Emulator) -> Iterator[None]:
    yield
    assert emulator.call("GET", "/faults") == []


async def test_a_transcription_is_completed(client: list[str], emulator: Emulator) -> None:
    session = "0b0e8b5e-4b1c-4f4e-9d8a-7d3b5a0c9f10"
    told = await transcribe(client, emulator, session=session, patience=20)
    assert (told["outcome"], told["error"]) == ("finished", "")
    assert len(told["finals"]) == 3
    assert told["partials"] >= 25
    ends = [end for _, end, _ in told["finals"]]
    assert ends == sorted(ends)
    assert all(text.endswith(".") for _, _, text in told["finals"])
    account = emulator.call("GET", f"/sessions/{session}")[-1]
    assert account["ended"] == "finished"
    assert account["sha256"] == hashlib.sha256(emulator.pcm.read_bytes()).hexdigest()
    assert (account["samples"], account["finals"]) == (AUDIO_SECONDS * 16_000, 3)
    await nothing_is_open(emulator)


async def test_both_clients_hear_the_same(js_sdk: Path, emulator: Emulator) -> None:
    python = [sys.executable, str(ROOT / "tests" / "support" / "amazon_client.py")]
    javascript = ["node", "--no-warnings", str(js_sdk)]
    one, other = await asyncio.gather(transcribe(python, emulator), transcribe(javascript, emulator))
    assert one["finals"] == other["finals"] != []


async def test_a_wrong_secret_is_refused(client: list[str], emulator: Emulator) -> None:
    told = await transcribe(client, emulator, secret="WRONG")
    assert told["outcome"] == "error"
    assert "InvalidSignature" in told["error"] + told["message"]
    assert "signature we calculated does not match" in told["message"]
    await nothing_is_open(emulator)


AT = {"after_seconds": 5}


@pytest.mark.parametrize(
    "name", ["LimitExceeded", "ServiceUnavailable", "InternalFailure", "Conflict", "BadRequest"]
)
@pytest.mark.parametrize("kind", ["refuse", "exception"])
async def test_each_exception_before_and_within_a_stream(
    client: list[str], emulator: Emulator, name: str, kind: str
) -> None:
    fault = {"kind": kind, "exception": f"{name}Exception", "message": "made up"}
    emulator.call("POST", "/faults", fault | (AT if kind == "exception" else {}))
    told = await transcribe(client, emulator)
    assert (told["outcome"], told["error"], told["message"]) == ("error", f"{name}Exception", "made up")
    assert bool(told["partials"]) == (kind == "exception")
    await nothing_is_open(emulator)


async def test_throttling(client: list[str], emulator: Emulator) -> None:
    emulator.call("POST", "/faults", {"kind": "throttle"})
    told = await transcribe(client, emulator)
    assert told["error"] == "LimitExceededException"


# How each client tells of it is the client's own way: the Python one ends silently on what the other calls an error.
CUTS: list[tuple[dict[str, object], dict[str, str]]] = [
    ({"kind": "drop-before-headers"}, {"python": "nothing more", "javascript": "error"}),
    ({"kind": "hang"}, {"python": "nothing more", "javascript": "nothing more"}),
    ({"kind": "drop", **AT}, {"python": "finished", "javascript": "finished"}),
    ({"kind": "tcp-rst", **AT}, {"python": "finished", "javascript": "error"}),
    ({"kind": "rst-stream", **AT}, {"python": "finished", "javascript": "error"}),
    ({"kind": "goaway", **AT}, {"python": "finished", "javascript": "error"}),
    ({"kind": "silence", **AT}, {"python": "nothing more", "javascript": "nothing more"}),
    ({"kind": "close", **AT}, {"python": "finished", "javascript": "finished"}),
]


@pytest.mark.parametrize(("fault", "outcomes"), CUTS, ids=[str(fault["kind"]) for fault, _ in CUTS])
async def test_each_way_to_lose_a_stream(
    client: list[str], emulator: Emulator, fault: dict[str, object], outcomes: dict[str, str]
) -> None:
    emulator.call("POST", "/faults", fault)
    told = await transcribe(client, emulator)
    assert told["outcome"] == outcomes["javascript" if client[0] == "node" else "python"]
    assert len(told["finals"]) < 3
    assert bool(told["partials"]) == ("after_seconds" in fault)
    await nothing_is_open(emulator)


@pytest.mark.parametrize("kind", ["stall", "slow"])
async def test_a_stream_survives_what_it_should(client: list[str], emulator: Emulator, kind: str) -> None:
    last = {"seconds": 1} if kind == "stall" else {"factor": 5, "bytes_per_second": 320_000}
    undisturbed = await transcribe(client, emulator)
    emulator.call("POST", "/faults", {"kind": kind, **AT, **last})
    told = await transcribe(client, emulator, patience=10)
    assert (told["outcome"], told["finals"]) == ("finished", undisturbed["finals"])
    await nothing_is_open(emulator)
