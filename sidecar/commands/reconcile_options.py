"""Options and inputs of the commands `sidecar reconcile` and `sidecar rebuild`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.commands.output import echo
from sidecar.errors import ConfigError, SettingsError, SidecarError, SpoolError, terminal_lines

if TYPE_CHECKING:
    from sidecar.metering.event_reader import EventReader, ReadSummary
    from sidecar.metering.gaps import SequenceCoverage
    from sidecar.reconcile.compare import Reconciler
    from sidecar.settings import Settings
    from sidecar.stores.inspector import Inspector

SPOOLS = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="DIR",
        help="Directory of a spool and of its workers' spools. Repeatable. [SIDECAR_SPOOL]",
        show_default=False,
    ),
]
EVENTS = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="PATH",
        help="File of a sink, or a directory of such files. Repeatable.",
        show_default=False,
    ),
]
FORMER_PLANS = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="Earlier version of the plan file in the same periods. Repeatable.",
        show_default=False,
    ),
]
ACCOUNT = Annotated[
    str | None, typer.Option(metavar="ID", help="Account ID. Default: all accounts.")
]
WAIT = Annotated[
    float,
    typer.Option(
        min=0,
        max=3600,
        metavar="SECONDS",
        help="Time for requests in flight to end before a difference counts.",
    ),
]
JSON = Annotated[bool, typer.Option("--json", help="JSON for programs.")]


@dataclass(frozen=True, slots=True)
class ReconcileInputs:
    """The open inputs of reconcile and rebuild."""

    reconciler: "Reconciler"
    inspector: "Inspector"
    events: "ReadSummary"
    coverage: "SequenceCoverage"


@contextmanager
def open_inputs(
    flags: dict[str, str | None],
    spools: Sequence[Path] | None,
    events: Sequence[Path] | None,
    former_plans: Sequence[Path] | None,
    account: str | None,
) -> Iterator[ReconcileInputs]:
    """Open Redis, events and plan files, and print warnings at the end.

    An error of Redis ends the command with exit code 2: it could not compare.
    """
    from sidecar.commands.progress import print_warnings
    from sidecar.metering.event_reader import EventReader
    from sidecar.metering.gaps import SequenceCoverage
    from sidecar.settings import load_subset
    from sidecar.stores.inspector import Inspector

    settings = load_subset("spool", *flags, **flags)
    if not spools:
        spools = [] if events else [settings.spool]
    coverage = SequenceCoverage()
    reader = EventReader([*spools, *(events or ())], coverage=coverage, with_overage=True)
    try:
        with Inspector(settings.redis.get_secret_value(), settings.redis_prefix) as inspector:
            reconciler = _reconciler(settings, inspector, reader, spools, former_plans, account)
            yield ReconcileInputs(reconciler, inspector, reader.summary, coverage)
        print_warnings(reader.summary)
    except (ConfigError, SettingsError, SpoolError):
        raise
    except SidecarError as error:
        for line in terminal_lines(error):
            echo(line, err=True)
        raise typer.Exit(2) from None


def _reconciler(
    settings: "Settings",
    inspector: "Inspector",
    reader: "EventReader",
    spools: Sequence[Path],
    former_plans: Sequence[Path] | None,
    account: str | None,
) -> "Reconciler":
    from sidecar.commands.progress import show_progress
    from sidecar.config.loading import load
    from sidecar.reconcile.compare import Reconciler
    from sidecar.reconcile.plan_history import PlanHistory

    former = [load(path) for path in former_plans or ()]
    return Reconciler(
        inspector,
        lambda: show_progress(reader.new_requests(), lambda number: f"read {number:,} requests"),
        PlanHistory(load(settings.plans), former),
        spools,
        only=account,
        stops=lambda: reader.summary.stops.values(),
    )
