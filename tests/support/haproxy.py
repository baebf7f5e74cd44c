"""HAProxy for tests: a balancer on loopback that keeps a browser to one task by a cookie, as an ALB does.

Tasks are registered and taken out while it runs. It asks each for ``/readyz``; like an ALB it uses all of them as long as
none is ready, so that those who only want to resume still get somewhere.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COOKIE = "SRV"
SLOTS = 64
"""Tasks in the life of a balancer, those that died included."""

START_SECONDS = 10.0
_UNUSED = 9
"""Nobody listens there; a slot that waits for its task is disabled anyway."""

_HEAD = """
global
  maxconn 8192
  nbthread 1
  stats socket {admin} mode 600 level admin expose-fd listeners
defaults
  mode http
  option redispatch 1
  retries 3
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  timeout tunnel 1h
  timeout check 1s
frontend clients
  bind 127.0.0.1:{port}
  use_backend anyway if {{ nbsrv(tasks) eq 0 }}
  default_backend tasks
"""

_BACKEND = """
backend {name}
  balance roundrobin
  cookie {cookie} insert indirect nocache preserve
"""

_CHECK = """  option httpchk
  http-check send meth GET uri /readyz hdr Host 127.0.0.1:{port}
  http-check expect status 200
  default-server inter 500ms fall 2 rise 1
"""


def free_port() -> int:
    """A loopback port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class HAProxy:
    """One balancer: a master that survives reloads, and its workers. Only processes started here are ever signalled."""

    def __init__(self, folder: Path, program: str) -> None:
        self._config, self._admin = folder / "haproxy.cfg", folder / "admin.sock"
        self._program = program
        self._ports: dict[str, int] = {}
        self._master: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        self._write()
        command = [self._program, "-W", "-db", "-q", "-f", str(self._config)]
        self._master = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while not self._listens():
            assert self._master.poll() is None, "haproxy ended at once"
            assert time.monotonic() < deadline, "haproxy does not listen"
            time.sleep(0.02)

    def close(self) -> None:
        """End it, with all connections."""
        if self._master is not None:
            self._master.send_signal(signal.SIGTERM)
            self._master.wait(START_SECONDS)
            self._master = None

    def register(self, name: str, port: int) -> None:
        """Send clients to the task ``name`` (``t0`` to ``t63``) at a loopback port, from now on."""
        self._ports[name] = port
        for backend in ("tasks", "anyway"):
            place = f"{backend}/{name}"
            self._ask(f"set server {place} addr 127.0.0.1 port {port}; enable server {place}")

    def deregister(self, name: str) -> None:
        """Send nobody there any more; connections that are open stay."""
        del self._ports[name]
        for backend in ("tasks", "anyway"):
            self._ask(f"disable server {backend}/{name}")

    def reload(self) -> None:
        """Have new workers take over; the old ones keep the connections that they have."""
        self._write()
        assert self._master is not None
        self._master.send_signal(signal.SIGUSR2)

    def up(self) -> set[str]:
        """The tasks that it takes for ready."""
        rows = [line.split(",") for line in self._ask("show stat").splitlines()]
        return {
            row[1]
            for row in rows
            if row[0] == "tasks" and len(row) > 17 and row[17] == "UP" and row[1] != "BACKEND"
        }

    def _ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(START_SECONDS)
            line.connect(str(self._admin))
            line.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: line.recv(65_536), b"")).decode()

    def _write(self) -> None:
        parts = [_HEAD.format(admin=self._admin, port=self.port)]
        for backend, check in (("tasks", "check"), ("anyway", "")):
            parts.append(_BACKEND.format(name=backend, cookie=COOKIE))
            parts.append(_CHECK.format(port=self.port) if check else "")
            parts += [self._server(f"t{number}", check) for number in range(SLOTS)]
        self._config.write_text("".join(parts))

    def _server(self, name: str, check: str) -> str:
        port = self._ports.get(name)
        state = "" if port else "disabled"
        return f"  server {name} 127.0.0.1:{port or _UNUSED} cookie {name} {check} {state}\n"

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return self._admin.exists() and probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def running(folder: Path) -> Iterator[HAProxy]:
    """A balancer without tasks; ``folder`` is short enough for a unix socket."""
    balancer = HAProxy(folder, shutil.which("haproxy") or "haproxy")
    try:
        balancer.start()
        yield balancer
    finally:
        balancer.close()
