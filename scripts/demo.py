"""``make demo``: a server of its own, the sample consultation spoken into it, and a look at what it kept.

Everything lives in a temporary folder that is gone afterwards. ``--realtime`` speaks as fast as people do.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from scripts.word_accuracy import word_accuracy  # noqa: E402 - run as a file, it must find its own project first

SAMPLE = ROOT / "tests" / "data" / "consultation.wav"
APP = (sys.executable, "-m", "app")
_ADDRESS = re.compile(r"Kikitori is at (http://[^/#]+)")
_SESSION = re.compile(r"session (\S+) of (\S+)")
_CAPTION = re.compile(r"^\[\d\d:\d\d\] ", re.MULTILINE)


def main() -> int:
    """Run the demonstration; 0 when every step went well."""
    with tempfile.TemporaryDirectory(prefix="kikitori-demo-") as folder:
        settings = {"KIKITORI_DATA_DIR": folder, "KIKITORI_PORT": "0", "KIKITORI_ADMIN_PORT": "0"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("KIKITORI_")}
        environment = {**kept, **settings, "KIKITORI_LOG_LEVEL": "warning", "PYTHONUNBUFFERED": "1"}
        server = subprocess.Popen(
            (*APP, "serve"), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        try:
            return _demonstrate(_address(server), environment, Path(folder))
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


def _address(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        if found := _ADDRESS.search(line):
            return found[1]
    raise SystemExit("the server did not start; what it wrote above says why")


def _demonstrate(url: str, environment: dict[str, str], folder: Path) -> int:
    print(f"-- a server at {url}; streaming {SAMPLE.relative_to(ROOT)}", flush=True)
    pace = "--realtime" if "--realtime" in sys.argv[1:] else "--fast"
    started = time.monotonic()
    stream = subprocess.Popen(
        (*APP, "stream", str(SAMPLE), "--url", url, pace),
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert stream.stdout is not None
    assert stream.stderr is not None
    captions = []
    for line in stream.stdout:
        print(line, end="", flush=True)
        captions.append(_CAPTION.sub("", line))
    notes = stream.stderr.read()
    print(notes, end="")
    session = _SESSION.search(notes)
    if stream.wait() != 0 or session is None:
        return 1
    script = SAMPLE.with_suffix(".txt").read_text()
    print(
        f"-- {time.monotonic() - started:.0f} s; word accuracy {word_accuracy(script, ' '.join(captions)):.1%}"
    )
    return _show_archive(folder, f"{session[2]}/{session[1]}", environment)


def _show_archive(folder: Path, session: str, environment: dict[str, str]) -> int:
    print(f"-- the archive of {session}, encrypted:")
    for path in sorted((folder / "archive" / session).rglob("*")):
        if path.is_file():
            print(f"   {path.stat().st_size:9,} bytes  {path.relative_to(folder / 'archive' / session)}")
    print("-- verify", flush=True)
    return subprocess.run((*APP, "verify", session), cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
