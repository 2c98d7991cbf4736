"""What verbs that read recorded events say of them."""

from typing import TYPE_CHECKING

import typer

from sidecar.core.text import amount

if TYPE_CHECKING:
    from sidecar.metering.event_reader import ReadSummary


def tell_of_damage(found: "ReadSummary") -> None:
    """On stderr: lines that tell no event, by their place, and files that went away."""
    for line in found.broken_lines:
        typer.echo(f"warning: {line}", err=True)
    if found.broken > len(found.broken_lines):
        typer.echo(f"warning: {found.broken:,} broken lines in all", err=True)
    if found.gone:
        gone = amount(found.gone, "file")
        typer.echo(f"warning: {gone} went away before being read: shipped meanwhile", err=True)
