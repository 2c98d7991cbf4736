"""The commands `sidecar events tail` and `sidecar events verify`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.commands import events_ship
from sidecar.commands.options import CONFIG, SPOOL, Command
from sidecar.commands.output import echo
from sidecar.core.text import amount
from sidecar.errors import SettingsError, SpoolError

if TYPE_CHECKING:
    from sidecar.metering.verify import SpoolReport


def app() -> typer.Typer:
    """Return the command group `sidecar events`."""
    group = typer.Typer(
        help="Show and verify the events of a spool.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command("tail", cls=Command)(tail)
    group.command("verify", cls=Command)(verify)
    group.command("ship", cls=Command)(events_ship.ship)
    return group


def tail(
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, metavar="N", help="Number of events.")
    ] = 10,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Continue with new events until Ctrl-C.")
    ] = False,
    spool: SPOOL = None,
    config: CONFIG = None,
) -> int:
    """Print the last usage events, one CloudEvent per line.

    Merges the spools of several workers in the same directory by time.

    \b
    Examples:
      sidecar events tail -n 5 --spool /var/spool/sidecar
      sidecar events tail --follow
    """
    import asyncio

    from sidecar.metering.tail import write_last_events

    asyncio.run(write_last_events(_spools(spool, config), lines, _print_line, follow=follow))
    return 0


def _print_line(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def verify(
    events: Annotated[
        list[Path] | None,
        typer.Option(
            "--events",
            metavar="PATH",
            help="File of a sink, with its rotated files, or a directory of them. Repeatable.",
        ),
    ] = None,
    spool: SPOOL = None,
    config: CONFIG = None,
) -> int:
    """Prove that no event of a spool or a sink is missing or changed.

    Checks the sequence numbers, and the hash of each line in the next one. In a spool, it also
    checks both ends against the recorded numbers. With --events, it reads only these files. Exit
    code 1: something is missing or changed. Changes nothing; the sidecar may be running.

    \b
    Examples:
      sidecar events verify --spool /var/spool/sidecar
      sidecar events verify --events /var/log/usage.jsonl
    """
    from sidecar.metering.verify import verify as verify_spool
    from sidecar.metering.verify_sink import verify_sink

    if events and spool is not None:
        raise SettingsError("give one of --events and --spool")
    sinks = events or []
    if not sinks and spool is not None and Path(spool).is_file():
        sinks = [Path(spool)]
    whole = True
    for path in sinks or _spools(spool, config):
        report = verify_sink(path) if sinks else verify_spool(path)
        for problem in (*report.gaps, *report.breaks):
            echo(f"{path if path.is_dir() else path.parent}/{problem}")
        echo(f"{path}: {_summary(report)}")
        whole = whole and report.ok
    return 0 if whole else 1


def _spools(spool: str | None, config: str | None) -> Sequence[Path]:
    """Return the spools of the directory: its own and that of each worker. Raises SpoolError."""
    from sidecar.settings import load_subset

    return spools_in(load_subset("config", "spool", config=config, spool=spool).spool)


def spools_in(directory: Path) -> Sequence[Path]:
    """Return the spools of a directory: its own and that of each worker. Raises SpoolError."""
    from sidecar.serve.share import find_orphan_spools

    try:
        next(directory.iterdir(), None)
        spools = find_orphan_spools(directory, 0)  # no workers run here: all spools
    except OSError as error:
        raise SpoolError(
            f"--spool: {directory} cannot be read: {error.strerror}; "
            "name another directory with --spool DIR (SIDECAR_SPOOL)"
        ) from None
    if not spools:
        raise SpoolError(
            f"--spool: {directory} contains no spool; "
            "name the directory of serve --spool DIR (SIDECAR_SPOOL)"
        )
    return spools


def _summary(report: "SpoolReport") -> str:
    events = f"{amount(report.events, 'event')} in {amount(report.segments, 'file')}"
    if report.first_seq is not None:
        events += f", seq {report.first_seq} to {report.last_seq}"
    elif report.spools:
        events += f", of {amount(len(report.spools), 'spool')}"
    if not report.ok:
        missing, broken = amount(report.missing, "event"), amount(report.broken, "line")
        return f"NOT whole: {missing} missing, {broken} broken; {events}"
    notes = [
        (report.dropped, "event", "dropped because the spool was full"),
        (report.torn_bytes, "byte", "of an unfinished line at the end"),
        (report.set_aside, "file", "of damaged or torn lines set aside"),
        (sum(report.dead_letters.values()), "event", "in dead-letter files"),
    ]
    present = [f"{amount(count, unit)} {text}" for count, unit, text in notes if count]
    return "; ".join([f"ok: {events}", *present])
