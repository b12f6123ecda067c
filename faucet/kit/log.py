"""Logs: one JSON object a line on stderr, with secrets taken out before anything is written.

Importing this file is enough to log safely; a process calls `configure` once to name itself and to route the
logs of libraries the same way. What is worth logging is decided elsewhere.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

LEVELS = ("debug", "info", "warning", "error")
REDACTED = "[redacted]"
LINE_CHARACTERS_MAX = 16_384
"""One value of a line is cut here, so that an odd error can't fill a disk."""

_SECRETS = re.compile(
    r"mf_(?:sess|dev)_[A-Za-z0-9_-]+"  # our bearers
    r"|\b(?:sk|rk|pk)[-_][A-Za-z0-9_-]{8,}"  # keys of providers and of the processor
    r"|\bwhsec_[A-Za-z0-9+/=_-]{8,}"  # secrets of webhooks, the processor's and our own
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"  # a name and password in a URL
    r"|(?i:\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}"
    r"|(?i:\b(?:authorization|x-api-key|api-key|proxy-authorization|cookie)\b[\"']?\s*[:=]\s*)[^\r\n,}]+"
)
_SECRET_NAMES = frozenset(
    "authorization proxy_authorization cookie set_cookie password secret bearer api_key apikey x_api_key"
    " session_token admin_token developer_admin_token metrics_token secret_encryption_key".split()
)
_service = "faucet"


def redact(text: str) -> str:
    """The text without bearers, keys of providers, passwords in URLs and Authorization values."""
    return _SECRETS.sub(REDACTED, text)


def _clean(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return redact(value[:LINE_CHARACTERS_MAX])
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        return redact(value[:LINE_CHARACTERS_MAX].decode("utf-8", "replace"))
    if depth < 4 and isinstance(value, dict):
        return {str(k): _named(str(k), v, depth + 1) for k, v in value.items()}
    if depth < 4 and isinstance(value, list | tuple | set | frozenset):
        return [_clean(item, depth + 1) for item in value]
    return redact(str(value)[:LINE_CHARACTERS_MAX])


def _named(name: str, value: Any, depth: int) -> Any:
    if name.lower().replace("-", "_") in _SECRET_NAMES:
        return REDACTED
    return _clean(value, depth)


def _redact_event(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        event[name] = _named(name, value, 0)
    return event


def _add_service(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["service"] = _service
    return event


class _Stderr:
    """Standard error as it is when a line is written: tests and daemons replace it."""

    def msg(self, line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    log = debug = info = warning = error = critical = exception = msg


# Rendered here and not by `format_exc_info` alone, so that a traceback passes the redaction like any text.
_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    _add_service,
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,
    _redact_event,
]
_RENDER = structlog.processors.JSONRenderer(ensure_ascii=False)


def _set_up(level: int) -> None:
    structlog.configure(
        processors=[*_SHARED, _RENDER],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *args: _Stderr(),
        cache_logger_on_first_use=False,
    )


class _Library(logging.Handler):
    """Hands the records of libraries that use `logging` to the same processors."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: MutableMapping[str, Any] = {"event": record.getMessage(), "logger": record.name}
            if record.exc_info:
                event["exc_info"] = record.exc_info
            for processor in _SHARED:
                event = processor(None, record.levelname.lower(), event)
            sys.stderr.write(str(_RENDER(None, record.levelname.lower(), event)) + "\n")
        except Exception:
            self.handleError(record)


def configure(service: str, level: str = "info") -> None:
    """Name the process in its lines, set the least level, and take over what libraries log."""
    global _service
    if level not in LEVELS:
        raise ValueError(f"a log level is one of {', '.join(LEVELS)}")
    _service = service
    number = getattr(logging, level.upper())
    _set_up(number)
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _Library)]:
        root.removeHandler(handler)
    root.addHandler(_Library())
    root.setLevel(max(number, logging.WARNING))


_set_up(logging.INFO)
logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
