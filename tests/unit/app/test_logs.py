from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from app.telemetry.logs import bound, configure, logger


class Said(msgspec.Struct):
    text: str


class Colour(Enum):
    RED = "red"


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    named = {
        name: logging.getLogger(name)
        for name in ("uvicorn", "uvicorn.access", "httpx", "httpcore", "websockets")
    }
    levels = {name: (found.level, found.propagate) for name, found in named.items()}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, found in named.items():
        found.setLevel(levels[name][0])
        found.propagate = levels[name][1]
    logging.captureWarnings(False)
    structlog.reset_defaults()


def logged(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def stream() -> io.StringIO:
    stream = io.StringIO()
    configure("auto", "info", stream)
    return stream


def test_a_line_is_one_json_object_in_utc(stream: io.StringIO) -> None:
    logger("app.x").info("session ended", samples=16000, ok=True, colour=Colour.RED, path=Path("a"))
    (line,) = logged(stream)
    assert datetime.fromisoformat(line.pop("time")).utcoffset().total_seconds() == 0  # type: ignore[union-attr]
    assert line == {
        "message": "session ended",
        "level": "info",
        "logger": "app.x",
        "samples": 16000,
        "ok": True,
        "colour": "red",
        "path": "a",
    }


def test_ids_are_in_every_line_of_a_block(stream: io.StringIO) -> None:
    with bound(requestId="r", clinicId="north"):
        logger("a").info("inside")
        logging.getLogger("uvicorn.error").warning("inside %s", "too")
    logger("a").info("outside")
    first, second, third = logged(stream)
    assert (first["requestId"], second["clinicId"]) == ("r", "north")
    assert second["message"] == "inside too"
    assert "requestId" not in third


@pytest.mark.parametrize(
    "name", ["text", "words", "token", "Ticket", "Authorization", "resume_ticket", "title"]
)
def test_what_was_said_and_what_opens_doors_is_dropped(stream: io.StringIO, name: str) -> None:
    logger("a").info("x", **{name: "hush"}, inner={name: ["hush"]}, many=[{name: "hush"}])
    assert "hush" not in stream.getvalue()
    assert logged(stream)[0][name] == "[refused]"


def test_a_count_is_no_secret(stream: io.StringIO) -> None:
    logger("a").info("x", words=12)
    assert logged(stream)[0]["words"] == 12


def test_an_object_is_only_named(stream: io.StringIO) -> None:
    logger("a").info("x", result=Said("hush"), pcm_like=b"hush", error=ValueError("hush"))
    assert "hush" not in stream.getvalue()
    assert logged(stream)[0]["result"] == "<Said>"


FORGED = 'x\n{"level":"error","message":"forged"}\r\x1b[31m\u2028\x85end'


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_value_can_neither_begin_a_line_nor_steer_a_terminal(log_format: Any) -> None:
    stream = io.StringIO()
    configure(log_format, "info", stream)
    logger("a").info(FORGED, field=FORGED, nested={"a": [FORGED]})
    logging.getLogger("b").error(FORGED)
    assert len(stream.getvalue().splitlines()) == 2
    assert "\x1b" not in stream.getvalue()
    try:
        raise ValueError(FORGED)
    except ValueError:
        logger("a").error("failed", exc_info=True)
    lines = stream.getvalue().split("\n")[2:]
    assert "\x1b" not in "".join(lines)
    if log_format == "json":
        assert lines[1:] == [""]
        assert json.loads(lines[0])["message"] == "failed"
    else:
        assert all(line.startswith("  | ") for line in lines[1:] if line)
        assert sum("forged" in line for line in lines) >= 1


def test_a_traceback_is_in_the_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("asyncio").exception("task failed")
    (line,) = logged(stream)
    assert "ValueError: why" in line["exception"]
    assert "\n" in line["exception"]


def test_less_important_lines_are_left_out() -> None:
    stream = io.StringIO()
    configure("json", "warning", stream)
    logger("a").info("no")
    logger("a").warning("yes")
    assert [line["message"] for line in logged(stream)] == ["yes"]


def test_at_debug_the_libraries_still_keep_headers_to_themselves() -> None:
    stream = io.StringIO()
    configure("json", "debug", stream)
    for name in ("uvicorn.error", "httpx", "websockets.server"):
        logging.getLogger(name).debug("< Authorization: Bearer hush")
    assert stream.getvalue() == ""


def test_the_access_log_is_off(stream: io.StringIO) -> None:
    access = logging.getLogger("uvicorn.access")
    access.info("GET /")
    assert not access.propagate
    assert stream.getvalue() == ""


def test_a_refused_upgrade_is_no_error(stream: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").error("ASGI callable returned without completing handshake.")
    logging.getLogger("uvicorn.error").error("something else")
    assert [line["message"] for line in logged(stream)] == ["something else"]


def test_warnings_are_log_lines(stream: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert logged(stream)[0]["logger"] == "py.warnings"


def test_on_a_terminal_a_line_is_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    configure("auto", "info", stream)
    logger("a").info("session ended", samples=3)
    assert "session ended" in stream.getvalue()
    assert "samples=3" in stream.getvalue()
