"""Structured logs: one JSON object per line on stderr, without secrets."""

import contextlib
import fcntl
import io
import logging
import os
import select
import sys
import threading
from typing import Any, Final, Literal, TextIO

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
WAIT_MS: Final = 1_000  # for a reader of a full pipe that was opened without blocking
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
    output: Any = LogOutput(sys.stderr)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _hide_secrets,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=output),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=output, force=True)


def unhandled(_loop: object, context: dict[str, Any]) -> None:
    """Log an exception that no code caught, for `loop.set_exception_handler`."""
    error, exception = context["message"], context.get("exception")
    logger("loop").error("unhandled_exception", error=error, exc_info=exception)


def logger(name: str) -> Any:
    """A logger that adds `part=name`. Use it as `log.info("subject_participle", field=value)`."""
    return structlog.get_logger(part=name)


class LogOutput:
    """The output of the log: whole lines, also if several processes write to it.

    The kernel splits a long write to a pipe, and lines of other processes get in between. So each
    line is written under a lock on the output itself, which the kernel frees with its owner.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._fd = _descriptor(stream)
        self._lock = threading.Lock()  # the kernel's lock belongs to all threads of a process

    def write(self, text: str) -> int:
        """Write whole lines."""
        if self._fd is None:
            return self._stream.write(text)
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            locked = _lock(self._fd)
            try:
                _write_all(self._fd, data)
            finally:
                if locked:
                    fcntl.lockf(self._fd, fcntl.LOCK_UN)
        return len(text)

    def flush(self) -> None:
        """Do nothing for a descriptor, which has no buffer."""
        if self._fd is None:
            self._stream.flush()


def _descriptor(stream: TextIO) -> int | None:
    """Return the stream's descriptor; None if it has none, as in some tests."""
    with contextlib.suppress(AttributeError, OSError, ValueError, io.UnsupportedOperation):
        stream.flush()
        return stream.fileno()
    return None


def _lock(fd: int) -> bool:
    """Lock an output. Returns False if this kind of output has no locks."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _write_all(fd: int, data: bytes) -> None:
    """Write all bytes. A pipe that stays full loses the rest: the log must not stop requests."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            if not poll.poll(WAIT_MS):
                return
