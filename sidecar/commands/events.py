"""events: look into the spools of a directory and prove that they are whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.commands.options import CONFIG, SPOOL, Verb
from sidecar.core.text import amount
from sidecar.errors import SpoolError

if TYPE_CHECKING:
    from sidecar.metering.verify import Report


def app() -> typer.Typer:
    """The verbs of `sidecar events`."""
    group = typer.Typer(
        help="Look into an event spool.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command("tail", cls=Verb)(tail)
    group.command("verify", cls=Verb)(verify)
    return group


def tail(
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, metavar="N", help="How many of the last events.")
    ] = 10,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new events until Ctrl-C.")
    ] = False,
    spool: SPOOL = None,
    config: CONFIG = None,
) -> int:
    """Print the last usage events, one CloudEvent per line.

    The spools of several workers, which are in the same directory, are read together.

    \b
    Examples:
      sidecar events tail -n 5 --spool /var/spool/sidecar
      sidecar events tail --follow
    """
    import asyncio

    from sidecar.commands.tail import print_tail

    asyncio.run(print_tail(_spools(spool, config), lines, follow=follow))
    return 0


def verify(spool: SPOOL = None, config: CONFIG = None) -> int:
    """Prove that no event of a spool is missing, changed or torn.

    Checks sequence numbers and the hash of each line in the next one, in the spool of each
    worker. Exit code 1 when a chain is broken. Reads only; the sidecar may be running.

    \b
    Example:
      sidecar events verify --spool /var/spool/sidecar
    """
    from sidecar.metering.verify import verify as read_all

    whole = True
    for directory in _spools(spool, config):
        report = read_all(directory)
        for problem in (*report.gaps, *report.breaks):
            typer.echo(f"{directory}/{problem}")
        typer.echo(f"{directory}: {_verdict(report)}")
        whole = whole and report.ok
    return 0 if whole else 1


def _spools(spool: str | None, config: str | None) -> Sequence[Path]:
    """Every spool of the directory: its own, and one for each worker. Raises SpoolError."""
    from sidecar.serve.share import find_orphan_spools
    from sidecar.settings import for_tools

    directory = for_tools("config", "spool", config=config, spool=spool).spool
    try:
        next(directory.iterdir(), None)
        found = find_orphan_spools(directory, 0)  # of no workers: all of them
    except OSError as error:
        raise SpoolError(f"The spool {directory} cannot be read: {error.strerror}.") from None
    if not found:
        raise SpoolError(
            f"{directory} holds no spool. Name the directory that serve has as --spool DIR "
            "(SIDECAR_SPOOL)."
        )
    return found


def _verdict(report: "Report") -> str:
    events = f"{amount(report.events, 'event')} in {amount(report.segments, 'file')}"
    if report.first_seq is not None:
        events += f", seq {report.first_seq} to {report.last_seq}"
    if not report.ok:
        wrong = f"{amount(report.missing, 'event')} missing, {amount(report.broken, 'line')} broken"
        return f"NOT whole: {wrong}; {events}"
    notes = [
        (report.dropped, "event", "dropped when the spool was full"),
        (report.torn_bytes, "byte", "of an unfinished line at the end"),
        (report.set_aside, "file", "set aside after a crash"),
        (sum(report.dead_letters.values()), "event", "in dead-letter files"),
    ]
    told = [f"{amount(count, what)} {text}" for count, what, text in notes if count]
    return "; ".join([f"ok: {events}", *told])
