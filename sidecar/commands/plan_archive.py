"""The commands `sidecar plans list` and `sidecar plans show`."""

import sys
from typing import Annotated

import typer

from sidecar.commands.options import CONFIG, SPOOL, Command
from sidecar.commands.output import echo
from sidecar.errors import SpoolError


def app() -> typer.Typer:
    """Return the command group `sidecar plans`."""
    group = typer.Typer(
        help="Show the plan files behind usage events.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command("list", cls=Command)(list_versions)
    group.command("show", cls=Command)(show)
    return group


def list_versions(spool: SPOOL = None, config: CONFIG = None) -> int:
    """List the versions of plan files that were live, the oldest first.

    \b
    Example:
      sidecar plans list --spool /var/spool/sidecar
    """
    from sidecar.config.archive import versions
    from sidecar.settings import load_subset

    directory = load_subset("config", "spool", config=config, spool=spool).spool
    try:
        for version in versions(directory):
            echo(version)
    except OSError as error:
        raise SpoolError(f"--spool: {directory} cannot be read: {error.strerror}") from None
    return 0


def show(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Version of a usage event.")],
    spool: SPOOL = None,
    config: CONFIG = None,
) -> int:
    """Print the plan file that a usage event was decided by.

    \b
    Example:
      sidecar plans show sha256:2c26… --spool /var/spool/sidecar
    """
    from sidecar.config.archive import find
    from sidecar.settings import load_subset

    directory = load_subset("config", "spool", config=config, spool=spool).spool
    try:
        text = find(directory, version)
    except OSError as error:
        raise SpoolError(f"--spool: {directory} cannot be read: {error.strerror}") from None
    if text is None:
        raise SpoolError(
            f'--spool: {directory} has no plan file of version "{version}"; '
            "list the versions with sidecar plans list"
        )
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()
    return 0
