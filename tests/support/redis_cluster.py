"""A real Redis Cluster for tests: three primaries with a replica each, on free loopback ports, writing nothing that lasts."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

NODE_TIMEOUT_MS = 1_000
FORM_SECONDS = 30.0
PRIMARIES = 3


class Node:
    """One process. Only the process itself is ever signalled."""

    def __init__(self, folder: Path, program: str, port: int, bus_port: int) -> None:
        self.port, self.bus_port = port, bus_port
        folder.mkdir()
        self._command = [
            program,
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        self._command += ["--cluster-enabled", "yes", "--cluster-port", str(bus_port), "--dir", str(folder)]
        self._command += ["--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--loglevel", "warning"]
        self._command += ["--repl-diskless-sync-delay", "0"]
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    def start(self) -> None:
        """Start the process and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        until(self._answers, "a node does not answer")

    def ask(self, *words: str | int) -> Any:
        """The answer to a command, as redis-py gives it."""
        with redis.Redis(port=self.port, socket_timeout=5.0, decode_responses=True) as client:
            return client.execute_command(*words)

    def slots(self) -> list[Any]:
        """The answer to CLUSTER SLOTS as it comes: first and last slot, then the nodes that have them, the primary first."""
        with redis.Redis(port=self.port, socket_timeout=5.0) as client:
            client.set_response_callback("CLUSTER SLOTS", lambda told, **_: told)
            told: list[Any] = client.execute_command("CLUSTER SLOTS")
            return told

    @property
    def runs(self) -> bool:
        return self._process is not None and not self._paused

    def info(self, section: str) -> dict[str, Any]:
        """What INFO says."""
        told: dict[str, Any] = self.ask("INFO", section)
        return told

    def pause(self) -> None:
        """Stop the process where it is: it takes connections and answers none."""
        self._signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        self._signal(signal.SIGCONT)
        self._paused = False

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _signal(self, number: int) -> None:
        assert self._process is not None, "the node is not running"
        self._process.send_signal(number)

    def _answers(self) -> bool:
        try:
            return bool(self.ask("PING"))
        except redis.ConnectionError:
            return False


class Cluster:
    """Primaries first, each one's replica three places after it."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def form(self) -> None:
        """Make a cluster of nodes that run, and wait until it takes writes and every replica has caught up."""
        first, primaries = self.nodes[0], self.nodes[:PRIMARIES]
        for number, node in enumerate(primaries):
            low, high = (REDIS_CLUSTER_HASH_SLOTS * at // PRIMARIES for at in (number, number + 1))
            node.ask("CLUSTER ADDSLOTSRANGE", low, high - 1)
            node.ask("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            first.ask("CLUSTER MEET", "127.0.0.1", node.port, node.bus_port)
        until(lambda: all(self._knows_all(node) for node in self.nodes), "the nodes do not meet")
        for primary, replica in zip(primaries, self.nodes[PRIMARIES:], strict=True):
            replica.ask("CLUSTER REPLICATE", primary.ask("CLUSTER MYID"))
        self.until_whole()

    def until_whole(self) -> None:
        """Wait until the cluster takes writes, and every replica follows its primary."""
        until(lambda: all(self._is_whole(node) for node in self.nodes), "the cluster does not form")

    def primary_of(self, key: str) -> Node:
        """The node that takes writes to ``key`` now, as the first node tells that runs."""
        slot = key_slot(key.encode())
        asked = next(node for node in self.nodes if node.runs)
        port = next(primary[1] for low, high, primary, *_ in asked.slots() if low <= slot <= high)
        return next(node for node in self.nodes if node.port == port)

    @staticmethod
    def _knows_all(node: Node) -> bool:
        return int(_cluster_info(node)["cluster_known_nodes"]) == 2 * PRIMARIES

    @staticmethod
    def _is_whole(node: Node) -> bool:
        role = node.info("replication")
        linked = role["role"] == "master" or role["master_link_status"] == "up"
        return linked and _cluster_info(node)["cluster_state"] == "ok"


def _cluster_info(node: Node) -> dict[str, str]:
    told: dict[str, str] = node.ask("CLUSTER INFO")
    return told


def until(condition: Callable[[], bool], otherwise: str, seconds: float = FORM_SECONDS) -> None:
    """Wait for something that a server comes to by itself."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody uses now."""
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in taken]


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster that takes writes."""
    program = shutil.which("redis-server") or "redis-server"
    ports = free_ports(4 * PRIMARIES)
    with tempfile.TemporaryDirectory(prefix="redis-cluster-") as folder:
        pairs = zip(ports[::2], ports[1::2], strict=True)
        nodes = [Node(Path(folder) / str(port), program, port, bus) for port, bus in pairs]
        try:
            for node in nodes:
                node.start()
            formed = Cluster(nodes)
            formed.form()
            yield formed
        finally:
            for node in nodes:
                node.kill()
