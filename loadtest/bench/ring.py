"""The ring on the hot path: µs for a frame of 100 ms in and out by two readers, as each of 1 000 sessions does it."""

from __future__ import annotations

import statistics
import time

from audio.ring import Ring

SESSIONS = 1_000
FRAME = bytes(3_200)
SAMPLES = len(FRAME) // 2
ROUNDS = 60
RUNS = 5


def main() -> None:
    """Print the median of several runs."""
    runs = []
    for _ in range(RUNS):
        rings = [Ring() for _ in range(SESSIONS)]
        readers = [
            (ring, ring.add_reader("recorder", 0), ring.add_reader("transcriber", 0)) for ring in rings
        ]
        began = time.process_time()
        for at in range(0, ROUNDS * SAMPLES, SAMPLES):
            for ring, recorder, transcriber in readers:
                ring.write(FRAME)
                for reader in (recorder, transcriber):
                    ring.view(at, at + SAMPLES)
                    reader.advance(at + SAMPLES)
        runs.append((time.process_time() - began) / (ROUNDS * SESSIONS) * 1e6)
        for ring in rings:
            ring.release()
    print(
        f"frame written and read twice: {statistics.median(runs):.1f} µs CPU (median of {RUNS}, {SESSIONS} rings)"
    )


if __name__ == "__main__":
    main()
