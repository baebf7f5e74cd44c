"""``python -m app serve``: the server, until a signal ends it in order."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final

import uvicorn
import uvloop
from starlette.applications import Starlette

from app.archive.store import StoreUnavailable
from app.asgi import admin_app, public_app
from app.auth.principal import Scope
from app.bootstrap.folder import clinic_registry, development_issuer
from app.bootstrap.server import StartFailed, services
from app.commands import Subparsers
from app.config import ConfigError, Settings, from_environment
from app.services import Services
from app.telemetry.logs import configure, logger
from app.ws.upgrade import UpgradeProtocol
from audio.pcm import FRAME_BYTES_MAX
from tenants.clinic import Clinic, ClinicId
from tenants.keys import KeysError

BACKLOG: Final = 2048
GRACEFUL_SECONDS: Final = 5
YOUNG_OBJECTS: Final = 10_000
"""Between two collections of the young: messages are freed by their counts, cycles are few."""

STARTED_POLL_SECONDS: Final = 0.02
DEMO_CLINIC: Final = ClinicId("demo")
TOKEN_SECONDS: Final = 12 * 3600

_log = logger(__name__)


class _Server(uvicorn.Server):
    """A server that leaves signals to us: uvicorn would cut every socket before a session is durable."""

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        return contextlib.nullcontext()


def add_arguments(subparsers: Subparsers) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "serve",
        help="run the server",
        description="Runs the server until SIGTERM or Ctrl-C ends it in order.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve; 0 after an orderly end, 1 when something the server needs is not there, 2 for wrong settings."""
    del args
    try:
        settings = from_environment()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    configure(settings.log_format, settings.log_level)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings))
    except (ConfigError, KeysError, StoreUnavailable, *StartFailed, _PortTaken) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"{error.filename or settings.data_dir}: {error.strerror}; KIKITORI_DATA_DIR names a folder to write to",
            file=sys.stderr,
        )
        return 1
    return 0


class _PortTaken(Exception):
    """An address cannot be bound."""


async def _serve(settings: Settings) -> None:
    with (
        _bound(settings.host, settings.port, "KIKITORI_PORT") as public,
        _bound(settings.admin_host, settings.admin_port, "KIKITORI_ADMIN_PORT") as admin,
    ):
        settings = settings.with_port(public.getsockname()[1])
        async with services(settings) as built, asyncio.TaskGroup() as group:
            servers = [_server(public_app(built)), _server(admin_app(built))]
            serving = [
                group.create_task(server.serve(sockets=[bound]))
                for server, bound in zip(servers, (public, admin), strict=True)
            ]
            beside = [group.create_task(_until_signal(built, servers))]
            beside.append(group.create_task(_announce(settings, servers, admin.getsockname()[1])))
            await asyncio.wait(serving)
            for task in beside:
                task.cancel()
    _log.info("stopped")


def _server(app: Starlette) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http="httptools",
            ws=UpgradeProtocol,
            ws_max_size=FRAME_BYTES_MAX,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=GRACEFUL_SECONDS,
        )
    )


def _bound(host: str, port: int, variable: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise _PortTaken(f"{host}:{port}: {error.strerror}; choose another port with {variable}") from error
    return bound


async def _until_signal(built: Services, servers: Sequence[_Server]) -> None:
    """The first signal drains and then stops; one more stops at once."""
    signalled = asyncio.Event()
    loop = asyncio.get_running_loop()

    def note() -> None:
        if signalled.is_set():
            built.manager.give_up()
            for server in servers:
                server.force_exit = True
        built.manager.close()
        signalled.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, note)
    await signalled.wait()
    _log.info("draining")
    await _drain(built)
    for server in servers:
        server.should_exit = True


async def _drain(built: Services) -> None:
    """Let go of everybody while the sockets still stand: speakers first, whose sessions need the time."""
    await built.manager.drain()
    await built.hub.drain()


async def _announce(settings: Settings, servers: Sequence[_Server], admin_port: int) -> None:
    while not all(server.started for server in servers):
        if any(server.should_exit for server in servers):
            return
        await asyncio.sleep(STARTED_POLL_SECONDS)
    # What was made so far stays for good: a full collection that walks through it stops the event loop for 0.1 to 0.3 s.
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
    _log.info(
        "serving",
        url=settings.public_url,
        adminPort=admin_port,
        engine=settings.engine,
        task=settings.task_id,
    )
    token = await _demo_token(settings)
    print(f"Kikitori is at {settings.public_url}/#token={token}", flush=True)
    print(f"metrics at http://{settings.admin_host}:{admin_port}/metrics", flush=True)


async def _demo_token(settings: Settings) -> str:
    await clinic_registry(settings).add(Clinic(DEMO_CLINIC))
    scopes = [scope for scope in Scope if scope is not Scope.OPS]
    issuer = development_issuer(settings)
    return issuer.mint("doctor", DEMO_CLINIC, scopes, now=time.time(), lifetime_seconds=TOKEN_SECONDS)
