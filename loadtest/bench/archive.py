"""The archive on disk: a segment made durable, and FLAC encoded and decoded; CPU and wall time."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import statistics
import tempfile
import time
from pathlib import Path

from app.bootstrap.folder import keys_of
from app.bootstrap.storage import archive
from app.config import load
from audio.codec import FlacEncoder, FlacReader
from audio.pcm import SAMPLE_RATE

SEGMENT = random.Random(1).randbytes(5 * SAMPLE_RATE * 2)
PUTS = 200
MINUTES = 2


async def _segments(folder: Path) -> None:
    walls = []
    settings = load({"KIKITORI_DATA_DIR": str(folder)})
    keys_of(settings)
    settings.archive_path.mkdir()
    async with archive(settings) as store:
        cpu = time.process_time()
        for number in range(PUTS):
            began = time.perf_counter()
            await store.create(f"bench/session/segments/{number:012}-1", SEGMENT)
            walls.append(time.perf_counter() - began)
        cpu = time.process_time() - cpu
    print(
        f"segment of {len(SEGMENT):,} bytes, fsync included: median {statistics.median(walls) * 1e3:.1f} ms, "
        f"p99 {statistics.quantiles(walls, n=100)[98] * 1e3:.1f} ms, CPU {cpu / PUTS * 1e3:.2f} ms"
    )


def _flac() -> None:
    pcm = SEGMENT * (MINUTES * 12)
    began = time.process_time()
    encoder = FlacEncoder(len(pcm) // 2, hashlib.md5(pcm, usedforsecurity=False).digest())
    flac = encoder.encode(pcm) + encoder.finish()
    encoded = time.process_time()
    FlacReader(io.BytesIO(flac)).read(0, len(pcm) // 2)
    decoded = time.process_time()
    seconds = MINUTES * 60
    print(
        f"FLAC of noise, CPU per audio-second: encode {(encoded - began) / seconds * 1e6:.0f} µs, "
        f"decode {(decoded - encoded) / seconds * 1e6:.0f} µs"
    )


def main() -> None:
    """Print both."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_segments(Path(folder)))
    _flac()


if __name__ == "__main__":
    main()
