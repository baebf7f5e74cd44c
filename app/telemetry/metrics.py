"""Numbers for Prometheus, in a registry of this object's own.

Names follow Prometheus's conventions: base units, ``_total`` for counters. Labels have few values: never a session,
a clinic, a person or anything that was said.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

SESSION_STATES: Final = ("created", "live", "detached", "finishing", "completed", "failed", "cancelled")

_FAST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LAG: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_CLOSE_CODES: Final = frozenset(
    {
        1000,
        1001,
        1005,
        1006,
        1009,
        1011,
        1012,
        4400,
        4401,
        4403,
        4408,
        4409,
        4410,
        4411,
        4413,
        4429,
        4500,
        4503,
    }
)


class Metrics:
    """Every metric of a process, as attributes to count on. One that nobody renders costs next to nothing."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._count_audio()
        self._count_speech()
        self._count_events()
        self._count_edge()

    def _count_audio(self) -> None:
        self.sessions = self._gauge(
            "kikitori_sessions", "Sessions that this process holds, by state", "state"
        )
        for state in SESSION_STATES:
            self.sessions.labels(state)
        self.frames_received = self._counter("kikitori_audio_frames_total", "Binary frames received")
        self.samples_received = self._counter("kikitori_audio_received_samples_total", "Samples received")
        self.samples_durable = self._counter("kikitori_audio_durable_samples_total", "Samples made durable")
        self.ring_bytes = self._gauge("kikitori_ring_bytes", "Bytes allocated for rings")
        self.segment_write_seconds = self._histogram(
            "kikitori_segment_write_seconds", "Time to make a segment durable", _FAST
        )

    def _count_speech(self) -> None:
        self.finals_committed = self._counter("kikitori_finals_committed_total", "Finals committed")
        self.commit_seconds = self._histogram("kikitori_commit_seconds", "Time to commit finals", _FAST)
        self.engine_waiting = self._gauge(
            "kikitori_engine_waiting_streams", "Streams that wait for the engine"
        )
        self.engine_restarts = self._counter(
            "kikitori_engine_restarts_total", "Engine streams opened again and fed again"
        )
        self.transcript_gap_samples = self._counter(
            "kikitori_transcript_gap_samples_total", "Samples that the transcriber had to let go"
        )

    def _count_events(self) -> None:
        self.observers = self._gauge("kikitori_observers", "Observers that are connected")
        self.events_delivered = self._counter(
            "kikitori_events_delivered_total", "Text frames sent to observers"
        )
        self.events_dropped = self._counter(
            "kikitori_events_dropped_total", "Partials and observers let go because an observer was too slow"
        )
        self.event_delivery_seconds = self._histogram(
            "kikitori_event_delivery_seconds",
            "Time from hearing of an event to having sent it to an observer",
            _LAG,
        )

    def _count_edge(self) -> None:
        self._closes = self._counter("kikitori_websocket_closes_total", "Sockets closed, by code", "code")
        self._requests = self._counter(
            "kikitori_http_requests_total", "Requests answered", "method", "route", "status"
        )
        self._request_seconds = self._histogram(
            "kikitori_http_request_seconds",
            "Time from request to the end of its answer",
            _FAST,
            "method",
            "route",
        )
        self.event_loop_lag_seconds = self._histogram(
            "kikitori_event_loop_lag_seconds", "How late the event loop ran a timer", _LAG
        )

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, meaning, labels, registry=self.registry, buckets=buckets)

    def session_moved(self, before: str | None, after: str | None) -> None:
        """A session went from one state to another; None is outside this process."""
        if before is not None:
            self.sessions.labels(before).dec()
        if after is not None:
            self.sessions.labels(after).inc()

    def websocket_closed(self, code: int) -> None:
        """Count a close. Codes that the contract does not know, a client's own among them, are ``other``."""
        self._closes.labels(str(code) if code in _CLOSE_CODES else "other").inc()

    def http_finished(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer. ``route`` is the template, ``unmatched`` where no route matched."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def render(self) -> tuple[bytes, str]:
        """The text exposition and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4
