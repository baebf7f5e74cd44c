"""One log: a JSON object a line (or a readable line on a terminal), to standard error, in UTC.

Nothing that was said and nothing that opens a door gets in: values under the names in ``REFUSED_KEYS`` are dropped,
objects are named by their type only, and control characters are escaped, so that a value can neither begin a
line of its own nor steer a terminal.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from enum import Enum
from pathlib import PurePath
from typing import Any, Final, Literal, TextIO
from uuid import UUID

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REFUSED_KEYS: Final = frozenset(
    {
        "authorization", "body", "cookie", "final", "finals", "headers", "jwt", "masterkey", "metadata", "partial",
        "password", "pcm", "query", "resumeticket", "secret", "secwebsocketprotocol", "text", "ticket", "title",
        "token", "transcript", "words",
    }
)  # fmt: skip
"""Names (without case, ``-`` and ``_``) of which only numbers reach the log."""

REFUSED: Final = "[refused]"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_BUT_NEWLINE: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_DEPTH_MAX: Final = 4
_CHARS_MAX: Final = 16_384


def configure(
    log_format: Literal["auto", "console", "json"], level: str, stream: TextIO | None = None
) -> None:
    """Route structlog, the standard library's loggers and warnings into one stream.

    Args:
        log_format: ``auto`` is ``console`` on a terminal, else ``json``.
        level: the least important level, by name.
        stream: standard error by default.
    """
    stream = stream or sys.stderr
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_last_steps(console))
    )
    _route(handler, logging.getLevelNamesMapping()[level.upper()])


def bound(**ids: str) -> AbstractContextManager[None]:
    """Put ids (``requestId``, ``sessionId``, ``clinicId``) into every line logged inside the block."""
    return structlog.contextvars.bound_contextvars(**ids)


def refuse(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The processor that lets nothing through but plain, harmless values. A traceback keeps its lines."""
    return {
        name: _CONTROL_BUT_NEWLINE.sub(_escaped, str(value))
        if name == "exception"
        else _plain(name, value, _DEPTH_MAX)
        for name, value in event.items()
    }


def _last_steps(console: bool) -> list[Processor]:
    steps: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        refuse,
    ]
    if console:
        renderer = structlog.dev.ConsoleRenderer(
            colors=False, timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
        )
        return [*steps, _indent, renderer]
    return [
        *steps,
        structlog.processors.EventRenamer("message"),
        structlog.processors.JSONRenderer(ensure_ascii=False),
    ]


def _indent(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """On a terminal no line of a traceback may look like a line of the log."""
    if "exception" in event:
        event["exception"] = "\n".join(f"  | {line}" for line in event["exception"].split("\n"))
    return event


def _route(handler: logging.Handler, level: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "asyncio", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # uvicorn, httpx and websockets tell whole headers and URLs when asked for details.
    for name in ("uvicorn", "httpx", "httpcore", "websockets"):
        logging.getLogger(name).setLevel(max(level, logging.INFO if name == "uvicorn" else logging.WARNING))
    logging.getLogger("uvicorn.error").addFilter(_is_true)
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
    logging.captureWarnings(True)


def _is_true(record: logging.LogRecord) -> bool:
    """Uvicorn calls every upgrade that was refused as HTTP unanswered, after its answer has gone out."""
    return record.msg != "ASGI callable returned without completing handshake."


def _plain(name: str, value: object, depth: int) -> object:
    value = value.value if isinstance(value, Enum) else value
    if value is None or isinstance(value, bool | int | float):
        return value
    if re.sub(r"[-_ ]", "", name).lower() in REFUSED_KEYS:
        return REFUSED
    if isinstance(value, str | UUID | PurePath):
        return _CONTROL.sub(_escaped, str(value)[:_CHARS_MAX])
    if depth and isinstance(value, Mapping):
        return {str(key): _plain(str(key), item, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_plain(name, item, depth - 1) for item in value]
    return f"<{type(value).__name__}>"


def _escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode("ascii")


def logger(name: str) -> Any:
    """A structlog logger; what it is given as keywords becomes fields."""
    return structlog.stdlib.get_logger(name)
