"""MinIO for tests: an S3 that checks signatures, checksums, policies and keys, on a free loopback port.

Built ahead from its Go module, pinned, into ``.cache/minio`` of the work tree, by ``python -m tests.support.minio_server``
(ten minutes on two cores the first time, 110 MB). It is a tool of the tests only, never part of what is shipped.
"""

from __future__ import annotations

import base64
import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
"""The module's last version; Go's checksum database vouches for it."""

CACHE = Path(__file__).parents[2] / ".cache" / "minio" / VERSION
BUILD_SECONDS = 3_000
START_SECONDS = 30.0
START_ATTEMPTS = 3
KMS_KEY = "clinic-key"
"""The one key that MinIO's built-in KMS has."""


class BuildFailed(Exception):
    """Go could not build MinIO."""


@dataclass(frozen=True)
class MinioServer:
    """A server that is up, with its root credentials."""

    url: str
    access_key: str = "minio-root"
    secret_key: str = "minio-root-secret"
    kms_key: str = KMS_KEY


def build() -> Path:
    """The program, built if it is not in the cache. Safe beside other processes that build.

    Raises:
        BuildFailed: see there.
    """
    program = CACHE / "minio"
    if program.exists():
        return program
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _go_install()
    return program


def _go_install() -> None:
    # Into a folder of its own, so that a build that is cut off leaves no half of a program.
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        command = ["go", "install", "-p", "1", "-ldflags=-s -w", f"github.com/minio/minio@{VERSION}"]
        made = subprocess.run(
            ["nice", "-n", "15", *command],
            env={**os.environ, "GOBIN": folder, "CGO_ENABLED": "0"},
            cwd=folder,
            timeout=BUILD_SECONDS,
            stderr=subprocess.PIPE,
            check=False,
        )
        if made.returncode:
            raise BuildFailed(made.stderr.decode(errors="replace")[-2_000:])
        (Path(folder) / "minio").rename(CACHE / "minio")


def program() -> Path:
    """The program; where it is not built the test is skipped with one plain line, or fails in CI. No test builds it."""
    found = CACHE / "minio"
    if found.exists():
        return found
    line = "needs MinIO: build it once with python -m tests.support.minio_server (ten minutes)"
    if shutil.which("go") is None:
        line = "needs go, to build MinIO: run scripts/system-deps (Debian: apt-get install golang)"
    if os.environ.get("CI") == "true":
        pytest.fail(line, pytrace=False)
    pytest.skip(line)


@contextmanager
def running() -> Iterator[MinioServer]:
    """A server with an empty disk of its own; only the process started here is ever ended."""
    binary = program()
    with tempfile.TemporaryDirectory(prefix="minio-") as folder:
        # Its port must be chosen for it, so another process can be quicker.
        for _ in range(START_ATTEMPTS):
            process, url = _start(binary, Path(folder))
            try:
                if _is_up(process, url):
                    yield MinioServer(url)
                    return
            finally:
                process.kill()
                process.wait()
        pytest.fail("MinIO does not start", pytrace=False)


def _start(binary: Path, folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    api, console = _free_port(), _free_port()
    settings = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "MINIO_ROOT_USER": MinioServer.access_key,
        "MINIO_ROOT_PASSWORD": MinioServer.secret_key,
        "MINIO_KMS_SECRET_KEY": f"{KMS_KEY}:{base64.b64encode(os.urandom(32)).decode()}",
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        "MINIO_CI_CD": "on",  # Takes a folder of the system's disk.
        "MINIO_SITE_REGION": "ap-northeast-1",
        "GOMAXPROCS": "2",
    }
    command = [str(binary), "server", "--quiet", "--address", f"127.0.0.1:{api}"]
    command += ["--console-address", f"127.0.0.1:{console}", str(folder / "data")]
    process = subprocess.Popen(command, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return process, f"http://127.0.0.1:{api}"


def _is_up(process: subprocess.Popen[bytes], url: str) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/minio/health/ready", timeout=1.0):  # noqa: S310 - http, loopback
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    print(build())
