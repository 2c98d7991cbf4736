"""events: look into a spool and prove that it is whole."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sidecar.metering.verify import Report

SPOOL = typer.Option(
    metavar="DIR", help="The spool's directory [SIDECAR_SPOOL; default /var/spool/sidecar]"
)


def app() -> typer.Typer:
    """The verbs of `sidecar events`."""
    group = typer.Typer(
        help="Look into an event spool.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command("tail")(tail)
    group.command("verify")(verify)
    return group


def tail(
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, metavar="N", help="How many of the last events.")
    ] = 10,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new events until Ctrl-C.")
    ] = False,
    spool: Annotated[str | None, SPOOL] = None,
) -> int:
    """Print the last usage events, one CloudEvent per line.

    \b
    Examples:
      sidecar events tail -n 5 --spool /var/spool/sidecar
      sidecar events tail --follow
    """
    from sidecar.settings import Settings

    asyncio.run(_print_tail(Settings.for_tools(spool=spool).spool, lines, follow))
    return 0


async def _print_tail(directory: Path, lines: int, follow: bool) -> None:
    from sidecar.metering.verify import tail as tail_of

    async for line in tail_of(directory, lines, follow):
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()


def verify(spool: Annotated[str | None, SPOOL] = None) -> int:
    """Prove that no event of a spool is missing, changed or torn.

    Checks sequence numbers and the hash of each line in the next one. Exit code 1 when the
    chain is broken. Reads only; the sidecar may be running.

    \b
    Example:
      sidecar events verify --spool /var/spool/sidecar
    """
    from sidecar.metering.verify import verify as read_all
    from sidecar.settings import Settings

    directory = Settings.for_tools(spool=spool).spool
    report = read_all(directory)
    for problem in (*report.gaps, *report.breaks):
        typer.echo(str(problem))
    typer.echo(f"{directory}: {_verdict(report)}")
    return 0 if report.ok else 1


def _verdict(report: "Report") -> str:
    events = f"{report.events:,} events in {report.segments} files"
    if report.first_seq is not None:
        events += f", seq {report.first_seq} to {report.last_seq}"
    if not report.ok:
        wrong = f"{report.missing:,} events missing, {report.broken:,} lines broken"
        return f"NOT whole: {wrong}; {events}"
    notes = [
        (report.dropped, "events were dropped when the spool was full"),
        (report.torn_bytes, "bytes of an unfinished line at the end"),
        (report.set_aside, "files set aside after a crash"),
        (sum(report.dead_letters.values()), "events in dead-letter files"),
    ]
    return "; ".join([f"ok: {events}", *(f"{count:,} {text}" for count, text in notes if count)])
