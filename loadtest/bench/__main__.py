"""``make bench``: run the quick measurements one after the other, or those that are named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

QUICK = ("ring", "archive", "loop_lag")


def main(names: list[str]) -> int:
    """Run the measurements; the first exit status that is not 0 counts."""
    known = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))
    if unknown := set(names) - set(known):
        print(
            f"no such measurement: {', '.join(sorted(unknown))}; there are: {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    status = 0
    for name in names or QUICK:
        print(f"== {name}", flush=True)
        ran = subprocess.run([sys.executable, "-m", f"loadtest.bench.{name}"], check=False)
        status = status or ran.returncode
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
