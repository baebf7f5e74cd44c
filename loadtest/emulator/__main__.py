"""``python -m loadtest.emulator``: runs until SIGINT or SIGTERM.

Prints one line, ``ready h2=PORT ws=PORT control=PORT``, when all three listen on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

import uvloop

from loadtest.emulator.server import CROWD, DEFAULT_KEYS, Options, emulator
from loadtest.emulator.service import Names, Quotas
from loadtest.emulator.sigv4 import Credentials
from loadtest.emulator.stream import Rules


def _key(text: str) -> tuple[str, Credentials]:
    name, _, rest = text.partition(":")
    secret, _, token = rest.partition(":")
    if not name or not secret:
        raise argparse.ArgumentTypeError("a key is written ID:SECRET or ID:SECRET:TOKEN")
    return name, Credentials(secret, token)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.emulator", description="Amazon Transcribe Streaming on loopback."
    )
    add = parser.add_argument
    add("--h2-port", type=int, default=9443, help="HTTP/2 (default 9443; 0: a free one)")
    add("--ws-port", type=int, default=9444, help="WebSocket (default 9444; 0: a free one)")
    add("--control-port", type=int, default=0, help="control calls, HTTP (default: a free one)")
    add("--ca-out", type=Path, help="where to write the throw-away authority's certificate (PEM)")
    add(
        "--key",
        type=_key,
        action="append",
        default=[],
        metavar="ID:SECRET[:TOKEN]",
        help="one more access key; repeatable",
    )
    add(
        "--latency-ms",
        type=float,
        default=70.0,
        help="from the end of what is heard to its result (default 70)",
    )
    add(
        "--turn-ms",
        type=float,
        default=35.0,
        help=f"with {CROWD} open streams and more, wake up only so often; shifts results by at most as much (default 35; 0: never)",
    )
    add("--max-streams", type=int, default=25, help="open at once in a region (default 25)")
    add("--max-starts-per-second", type=int, default=25, help="in a region (default 25)")
    add("--idle-seconds", type=float, default=15.0, help="without audio, that end a stream (default 15)")
    add("--max-stream-seconds", type=float, default=4 * 3600.0, help="that a stream may last (default 14400)")
    add(
        "--vocabulary",
        action="append",
        default=[],
        metavar="NAME",
        help="there are only these vocabularies; repeatable",
    )
    add(
        "--vocabulary-filter",
        action="append",
        default=[],
        metavar="NAME",
        help="only these filters; repeatable",
    )
    add(
        "--refuse-by-status",
        action="store_true",
        help="refuse a WebSocket before its upgrade, by an HTTP status",
    )
    return parser


def options(arguments: Sequence[str] | None = None) -> Options:
    """The options of a command line."""
    given = _parser().parse_args(arguments)
    return Options(
        h2_port=given.h2_port,
        ws_port=given.ws_port,
        control_port=given.control_port,
        ca_out=given.ca_out,
        keys={**DEFAULT_KEYS, **dict(given.key)},
        rules=Rules(given.latency_ms / 1000, given.idle_seconds, given.max_stream_seconds),
        quotas=Quotas(given.max_streams, given.max_starts_per_second),
        names=Names(frozenset(given.vocabulary), frozenset(given.vocabulary_filter)),
        refuse_by_status=given.refuse_by_status,
        turn=given.turn_ms / 1000,
    )


async def run(chosen: Options) -> None:
    """Serve until a signal asks for the end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with emulator(chosen) as (ports, _):
        print(f"ready h2={ports.h2} ws={ports.ws} control={ports.control}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    uvloop.run(run(options()))
