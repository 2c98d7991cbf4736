"""events: look into a spool and prove that it is whole."""

from typing import Annotated

import typer

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
    from sidecar.metering.verify import tail as read_tail
    from sidecar.settings import Settings

    directory = _directory(Settings.for_tools(spool=spool).spool)
    for line in read_tail(directory, lines, follow):
        typer.echo(line)
    return 0


def verify(spool: Annotated[str | None, SPOOL] = None) -> int:
    """Prove that no event of a spool is missing, changed or torn.

    Checks sequence numbers and the hash of each line in the next one. Exit code 1 when the
    chain is broken. Reads only; the sidecar may be running.

    \b
    Example:
      sidecar events verify --spool /var/spool/sidecar
    """
    raise NotImplementedError
