"""Output of commands. Text from elsewhere cannot move the cursor or begin another line."""

import typer

from sidecar.core.text import one_line


def echo(text: str, *, err: bool = False) -> None:
    """Print lines; other control characters are escaped."""
    typer.echo("\n".join(one_line(line) for line in text.split("\n")), err=err)


def cell(text: str) -> str:
    """A field of a line of fields, without tabs and line breaks."""
    return one_line(text).replace("\t", "\\t")
