"""The command `sidecar backtest`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.commands.output import echo
from sidecar.errors import SidecarError

if TYPE_CHECKING:
    from sidecar.backtest.report import AccountReport
    from sidecar.core.model import PlanBook
    from sidecar.metering.event_reader import EventReader

EVENTS = Annotated[
    list[Path],
    typer.Option(
        metavar="PATH",
        help="A spool, a file of a sink, or a directory of such files. Repeatable.",
    ),
]


def backtest(
    plans: Annotated[Path, typer.Argument(metavar="PLANS", help="The plan file to try.")],
    events: EVENTS,
    account: Annotated[
        str | None, typer.Option(metavar="ID", help="Only the requests of this account.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for programs.")] = False,
) -> int:
    """Replay recorded requests with another plan file.

    Reports which requests the new limits would refuse, when quotas would be used up, and how units
    and overage would change. Reads usage events and a plan file; contacts no server and changes
    nothing. An account in the plan file has its plan there, any other account the plan that its
    events name.

    \b
    Examples:
      sidecar backtest new-plans.yaml --events /var/spool/sidecar
      sidecar backtest new-plans.yaml --events usage.jsonl --events old/ --account acme --json
    """
    from sidecar.backtest import output
    from sidecar.commands.progress import print_warnings
    from sidecar.config.loading import load
    from sidecar.metering.event_reader import EventReader

    book = load(plans)
    reader = EventReader(events)
    reports = _replay(book, reader, account)
    print_warnings(reader.summary)
    if not reports:
        of_account = "" if account is None else f" of account {account}"
        raise SidecarError(
            f"--events: no requests{of_account} in {reader.summary.files} files; name other files"
        )
    if as_json:
        document = output.json_document(reports, reader.summary, book, str(plans))
        echo(json.dumps(document, indent=2, ensure_ascii=False))
        return 0
    for line in output.text_lines(reports, reader.summary, book, str(plans)):
        echo(line)
    return 0


def _replay(book: "PlanBook", reader: "EventReader", account: str | None) -> "list[AccountReport]":
    from sidecar.backtest.run import replay
    from sidecar.backtest.sort import in_order
    from sidecar.commands.progress import gc_paused, show_progress

    requests = show_progress(reader.new_requests(), lambda number: f"read {number:,} requests")
    if account is not None:
        requests = (one for one in requests if one.account == account)
    ordered = show_progress(in_order(requests), lambda number: f"replayed {number:,} requests")
    with gc_paused():
        return list(replay(ordered, book))
