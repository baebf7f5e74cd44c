from __future__ import annotations

import re

from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from app.telemetry.metrics import Metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = metrics.render()[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_fresh_process_shows_every_metric_at_zero() -> None:
    found = samples(Metrics())
    assert found["kikitori_sessions", (("state", "live"),)] == 0
    assert found["kikitori_audio_received_samples_total", ()] == 0
    assert found["kikitori_commit_seconds_count", ()] == 0
    assert found["kikitori_engine_restarts_total", ()] == 0
    assert ("kikitori_ring_bytes", ()) in found


def test_names_and_labels_follow_the_conventions() -> None:
    metrics = Metrics()
    metrics.http_finished("GET", "/v1/sessions", 200, 0.1)
    metrics.websocket_closed(1000)
    allowed = {"state", "reason", "code", "method", "route", "status", "le"}
    for family in text_string_to_metric_families(metrics.render()[0].decode()):
        if not family.name.startswith("kikitori_") or family.name.endswith("_created"):
            continue
        assert re.fullmatch(r"[a-z_]+", family.name)
        assert family.documentation
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
        assert {label for sample in family.samples for label in sample.labels} <= allowed


def test_a_session_is_counted_where_it_is() -> None:
    metrics = Metrics()
    metrics.session_moved(None, "created")
    metrics.session_moved("created", "live")
    metrics.session_moved("live", None)
    metrics.session_moved(None, "live")
    found = samples(metrics)
    assert found["kikitori_sessions", (("state", "live"),)] == 1
    assert found["kikitori_sessions", (("state", "created"),)] == 0


def test_what_callers_choose_makes_no_new_series() -> None:
    metrics = Metrics()
    for code in range(3000, 3100):
        metrics.websocket_closed(code)
    for number in range(100):
        metrics.http_finished(f"M{number}", "unmatched", 405, 0.0)
    metrics.websocket_closed(4409)
    found = samples(metrics)
    assert found["kikitori_websocket_closes_total", (("code", "other"),)] == 100
    assert found["kikitori_websocket_closes_total", (("code", "4409"),)] == 1
    labels = (("method", "other"), ("route", "unmatched"), ("status", "405"))
    assert found["kikitori_http_requests_total", labels] == 100


def test_two_of_them_know_nothing_of_each_other_nor_of_the_global_registry() -> None:
    first, second = Metrics(), Metrics()
    first.frames_received.inc(3)
    assert samples(first)["kikitori_audio_frames_total", ()] == 3
    assert samples(second)["kikitori_audio_frames_total", ()] == 0
    assert REGISTRY.get_sample_value("kikitori_audio_frames_total") is None


def test_it_renders_the_text_format() -> None:
    body, media_type = Metrics().render()
    assert media_type.startswith("text/plain; version=0.0.4")
    assert b"# TYPE kikitori_sessions gauge" in body
