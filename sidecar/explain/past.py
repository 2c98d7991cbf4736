"""What was recorded about one past request: in usage events, and in the sidecar's log."""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson

from sidecar.errors import SettingsError, SidecarError
from sidecar.metering.event_reader import event_files, whole_lines
from sidecar.metering.segments import MAX_LINE

MAX_FOUND: Final = 100  # events, and log events, that are shown
STDIN: Final = Path("-")
_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_DIGITS: Final = re.compile(r"([0-9a-f]{8})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{12})")


@dataclass(frozen=True)
class PastRequest:
    """The records of a request, in the order in which they were found."""

    request_id: str
    events: list[dict[str, Any]] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def received_at(self) -> str:
        """When the sidecar received it, by its own clock: the time in the ID (UUIDv7)."""
        milliseconds = int(self.request_id.replace("-", "")[:12], 16)
        try:
            when = datetime.fromtimestamp(milliseconds / 1000, UTC)
        except (OverflowError, ValueError):
            return "unknown"
        return f"{when:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"

    def as_json(self) -> dict[str, Any]:
        """The document of `--json`."""
        return {
            "request_id": self.request_id,
            "received_at": self.received_at,
            "events": self.events,
            "log": self.log,
        }


def parse_request_id(text: str) -> str:
    """Return a request's ID; also of the trace that begins with the request.

    Raises SettingsError if it is not one.
    """
    plain = _DIGITS.sub(r"\1-\2-\3-\4-\5", text.strip().lower())
    if not _ID.fullmatch(plain):
        raise SettingsError(
            f'--request-id: "{text}" is not a request ID; take it from X-Request-Id of the '
            "response, or from request_id of a refusal"
        )
    return plain


def find_past(request_id: str, events: Sequence[Path], logs: Sequence[Path]) -> PastRequest:
    """Find a request in files of events and of the log. `STDIN` is a log, too.

    Raises SidecarError if a file cannot be read, or has nothing about the request.
    """
    past = PastRequest(request_id)
    other_lines = False
    for path in event_files(events):
        for event in _documents(_lines(path, "--events or --spool"), request_id):
            data = event.get("data")
            of_request = isinstance(data, dict) and data.get("request") == request_id
            if event.get("id") == request_id or of_request:
                _add(past.events, event)
    for path in logs:
        lines = _stdin() if path == STDIN else _lines(path, "--log")
        for document in _documents(lines, request_id):
            other_lines = other_lines or not document
            if document.get("request_id") == request_id and "event" in document:
                _add(past.log, document)
    if not past.events and not past.log and other_lines:
        raise SidecarError(
            f"--log: has request {request_id} only in lines that are not JSON; start serve with "
            "--log-format json"
        )
    if not past.events and not past.log:
        raise SidecarError(
            f"request {request_id}, received {past.received_at}, is not in these files; a refused "
            "request has an event only with --refusal-events, and a log event only with "
            "--access-log"
        )
    return past


def _add(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    if len(rows) < MAX_FOUND and row not in rows:  # a spool and a sink have the same events
        rows.append(row)


def _lines(path: Path, option: str) -> Iterator[bytes]:
    try:
        yield from whole_lines(path)
    except FileNotFoundError:
        raise SidecarError(f"{option}: {path} does not exist") from None
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SidecarError(f"{option}: {path} cannot be read: {reason.lower()}") from None


def _stdin() -> Iterator[bytes]:
    yield from iter(partial(sys.stdin.buffer.readline, MAX_LINE), b"")


def _documents(lines: Iterable[bytes], request_id: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of lines with the ID; {} for another line, such as a program's own."""
    needle = request_id.encode()
    for line in lines:
        if needle not in line:
            continue
        try:
            document = orjson.loads(line)
        except ValueError:
            document = {}
        if isinstance(document, dict):
            yield document
