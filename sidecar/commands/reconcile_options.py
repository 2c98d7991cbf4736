"""What reconcile and rebuild have in common: their options, and how they get to look."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.errors import ConfigError, SettingsError, SidecarError, SpoolError

if TYPE_CHECKING:
    from sidecar.metering.event_reader import ReadSummary, RecordedEvents
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
        min=0, max=3600, metavar="SECONDS",
        help="Time for requests in flight to end before a difference counts.",
    ),
]  # fmt: skip
JSON = Annotated[bool, typer.Option("--json", help="JSON for programs.")]


@dataclass(frozen=True, slots=True)
class Inside:
    """What a verb works with."""

    looker: "Reconciler"
    inspector: "Inspector"
    found: "ReadSummary"
    coverage: "SequenceCoverage"


@contextmanager
def looking(
    given: dict[str, str | None],
    spools: Sequence[Path] | None,
    events: Sequence[Path] | None,
    former_plans: Sequence[Path] | None,
    account: str | None,
) -> Iterator[Inside]:
    """Everything that it takes. What goes wrong with Redis inside ends the verb with exit code 2:
    it could not look."""
    from sidecar.commands.reading import tell_of_damage
    from sidecar.metering.event_reader import RecordedEvents
    from sidecar.metering.gaps import SequenceCoverage
    from sidecar.settings import load_subset
    from sidecar.stores.inspector import Inspector

    settings = load_subset("spool", *given, **given)
    if not spools:
        spools = [] if events else [settings.spool]
    coverage = SequenceCoverage()
    history = RecordedEvents([*spools, *(events or ())], coverage=coverage)
    try:
        with Inspector(settings.redis.get_secret_value(), settings.redis_prefix) as inspector:
            looker = _looker(settings, inspector, history, spools, former_plans, account)
            yield Inside(looker, inspector, history.found, coverage)
        tell_of_damage(history.found)
    except (ConfigError, SettingsError, SpoolError):
        raise
    except SidecarError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _looker(
    settings: "Settings",
    inspector: "Inspector",
    history: "RecordedEvents",
    spools: Sequence[Path],
    former_plans: Sequence[Path] | None,
    account: str | None,
) -> "Reconciler":
    from sidecar.commands.progress import watched
    from sidecar.config.loading import load
    from sidecar.reconcile.compare import Reconciler
    from sidecar.reconcile.plan_history import PlanFiles

    former = [load(path) for path in former_plans or ()]
    return Reconciler(
        inspector,
        lambda: watched(history.new_calls(), lambda number: f"read {number:,} calls"),
        PlanFiles(load(settings.plans), former),
        spools,
        only=account,
    )
