"""Structured logs: one JSON object per line on stderr, without secrets."""

import logging
import sys
from typing import Any, Final, Literal

# structlog imports rich, if it is installed, to format tracebacks. That costs 5 MB in every serving
# process, and JSON logs never use it.
_RICH: Final = sys.modules.pop("rich", None)
sys.modules["rich"] = None  # type: ignore[assignment]
try:
    import structlog
finally:
    del sys.modules["rich"]
    if _RICH is not None:
        sys.modules["rich"] = _RICH

LogFormat = Literal["json", "console"]
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

# The values of fields with these names are never written.
_SECRET: Final = frozenset(
    {"key", "secret", "token", "password", "authorization", "x-api-key", "x_api_key", "cookie"}
)


def _hide_secrets(_logger: Any, _method: str, event: structlog.typing.EventDict) -> Any:
    for name in event.keys() & _SECRET:
        event[name] = "[hidden]"
    return event


def configure(level: str = "info", fmt: LogFormat = "json") -> None:
    """Set up logging for the process; `level` is a key of LEVELS."""
    renderer: Any = structlog.processors.JSONRenderer()
    if fmt == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _hide_secrets,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)


def unhandled(_loop: object, context: dict[str, Any]) -> None:
    """Log an exception that no code caught, for `loop.set_exception_handler`."""
    error, exception = context["message"], context.get("exception")
    logger("loop").error("unhandled_exception", error=error, exc_info=exception)


def logger(name: str) -> Any:
    """A logger that adds `part=name`. Use it as `log.info("subject_participle", field=value)`."""
    return structlog.get_logger(part=name)
