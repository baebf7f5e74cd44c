"""moto's server for tests: S3, KMS and STS over real HTTP, in a process of its own on a free loopback port.

It checks neither signatures nor policies nor checksums, and its KMS encrypts nothing: what depends on those is tested
against MinIO, or against what was sent. Requests are carried out one at a time, because its conditional puts look first
and write afterwards.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BUFFER_BYTES = "65536"
"""Larger objects go to a temporary file; by default moto would keep gigabytes in memory."""


@dataclass(frozen=True)
class MotoServer:
    """A server that is up. It takes any credentials."""

    url: str
    access_key: str = "AKIDEXAMPLE"
    secret_key: str = "SECRETEXAMPLE"
    kms_key: str = "arn:aws:kms:ap-northeast-1:123456789012:key/0190b6c5-0000-4000-8000-000000000000"


@contextmanager
def running() -> Iterator[MotoServer]:
    """A server; only the process started here is ever ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.moto_server"],
        cwd=ROOT,
        env={**os.environ, "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": BUFFER_BYTES},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port.isdigit(), "moto's server did not start: is moto[server,s3,kms,sts] installed?"
        yield MotoServer(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.communicate()


def _one_at_a_time(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    lock = threading.Lock()

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # Read before the lock is taken: a client that stops in the middle holds up nobody.
        size = int(environ.get("CONTENT_LENGTH") or 0)
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(size))
        with lock:
            return app(environ, start_response)

    return serve


def _serve() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class KeepAlive(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *_: object) -> None:
            """Be quiet."""

    app = _one_at_a_time(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=KeepAlive)
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _serve()
