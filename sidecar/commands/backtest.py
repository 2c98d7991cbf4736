"""backtest: what recorded calls would have met under another plan file."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.errors import SidecarError

if TYPE_CHECKING:
    from sidecar.backtest.report import AccountReport
    from sidecar.core.model import PlanBook
    from sidecar.metering.event_reader import ReadSummary, EventReader

EVENTS = Annotated[
    list[Path],
    typer.Option(
        metavar="PATH",
        help="A spool, a file that a sink wrote, or a directory of them; may be repeated.",
    ),
]


def backtest(
    plans: Annotated[Path, typer.Argument(metavar="PLANS", help="The plan file to try.")],
    events: EVENTS,
    account: Annotated[
        str | None, typer.Option(metavar="ID", help="Only the calls of this account.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for programs.")] = False,
) -> int:
    """Replay recorded calls through another plan file: who would be refused, and when.

    Nothing is asked and nothing is changed: it reads usage events and a plan file. Accounts of
    the plan file are on the plan that they have there, others on the one that their events name.

    \b
    Examples:
      sidecar backtest new-plans.yaml --events /var/spool/sidecar
      sidecar backtest new-plans.yaml --events usage.jsonl --events old/ --account acme --json
    """
    from sidecar.backtest import output
    from sidecar.commands.reading import tell_of_damage
    from sidecar.config.loading import load
    from sidecar.metering.event_reader import EventReader

    book = load(plans)
    history = EventReader(events)
    reports = _replay(book, history, account)
    tell_of_damage(history.found)
    if not reports:
        raise SidecarError(_nothing(history.found, account))
    if as_json:
        told = output.as_json(reports, history.found, book, str(plans))
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return 0
    for line in output.in_words(reports, history.found, book, str(plans)):
        typer.echo(line)
    return 0


def _replay(
    book: "PlanBook", history: "EventReader", account: str | None
) -> "list[AccountReport]":
    from sidecar.backtest.run import replay
    from sidecar.backtest.sort import in_order
    from sidecar.commands.progress import watched, without_gc

    calls = history.new_requests()
    calls = watched(calls, lambda number: f"read {number:,} calls")
    if account is not None:
        calls = (call for call in calls if call.account == account)
    ordered = watched(in_order(calls), lambda number: f"replayed {number:,} calls")
    with without_gc():
        return list(replay(ordered, book))


def _nothing(found: "ReadSummary", account: str | None) -> str:
    whose = "" if account is None else f" of account {account}"
    return f"there are no calls{whose} in {found.files} files of events"
