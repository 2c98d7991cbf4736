"""explain --request-id: what was recorded about a past request."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sidecar.commands.output import echo

if TYPE_CHECKING:
    from sidecar.explain.past import PastRequest

_OF_EVERY_LINE: Final = ("event", "level", "timestamp", "request_id")
_REQUEST: Final = "api.request.v1"
_REFUSAL: Final = "api.refusal.v1"


def explain_past(
    request_id: str,
    spool: str | None,
    config: str | None,
    events: list[Path],
    logs: list[Path],
    *,
    as_json: bool,
) -> int:
    """Print the records of a request. Returns the exit code.

    Without any file, it reads the spool of the settings. Raises SidecarError.
    """
    from sidecar.explain.past import find_past, parse_request_id
    from sidecar.settings import load_subset

    identifier = parse_request_id(request_id)
    paths, where = list(events), ""
    if spool is not None or not (events or logs):
        directory = load_subset("config", "spool", config=config, spool=spool).spool
        paths.append(directory)
        where = f" --spool {shlex.quote(str(directory))}"
    past = find_past(identifier, paths, logs)
    echo(
        json.dumps(past.as_json(), indent=2, ensure_ascii=False)
        if as_json
        else "\n".join(_text(past, where))
    )
    return 0


def _text(past: "PastRequest", where: str) -> list[str]:
    """Lines for people. `where`: the option with which `plans show` finds the plan file."""
    lines = [f"request   {past.request_id}, received {past.received_at}"]
    for event in past.events:
        data = event.get("data")
        lines += ["", *_event_lines(event, data if isinstance(data, dict) else {}, where)]
    for row in past.log:
        fields = ", ".join(f"{k} {v}" for k, v in row.items() if k not in _OF_EVERY_LINE)
        lines += [
            "",
            f"log       {row.get('timestamp', '-')} {row['event']}",
            f"          {fields}",
        ]
    return lines


def _event_lines(event: dict[str, Any], data: dict[str, Any], where: str) -> list[str]:
    kind = event.get("type")
    version = f"{data.get('plan_version')}{where}"
    lines = [
        f"event     {kind}, {event.get('time')}, by {event.get('source')}",
        f"account   {event.get('subject')} (API key {data.get('key')})",
        f"plan      {data.get('plan')}; its file: sidecar plans show {version}",
        f"route     {data.get('route')}",
    ]
    if kind == _REFUSAL:
        return [*lines, f"decision  refused: {data.get('status')} {data.get('reason')}"]
    if kind == _REQUEST:
        billable = "billable" if data.get("billable") else "not billable"
        lines += [
            f"decision  allowed; it ended as {data.get('reason')} with status {data.get('status')} "
            f"after {data.get('latency_ms')} ms, and is {billable}",
            f"usage     {_units(data.get('usage'))}",
        ]
    if any((data.get("overage") or {}).values()):
        lines.append(f"overage   {_units(data.get('overage'))}")
    return lines


def _units(usage: Any) -> str:
    if not isinstance(usage, dict) or not usage:
        return "nothing"
    return ", ".join(f"{meter} {units}" for meter, units in usage.items())
