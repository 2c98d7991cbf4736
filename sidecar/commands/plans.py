"""Commands for plan files: check and schema."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.commands.output import echo

if TYPE_CHECKING:
    from sidecar.core.model import PlanBook


def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Paths of plan files.")],
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 also if there are warnings.")
    ] = False,
) -> int:
    """Check plan files and print every problem.

    Each problem is a line: file:line:column: path: what is wrong; what to write instead. A line
    with "warning:" is about a part that can never have an effect, in a file that is valid.
    Exit code 0: all files are valid, 1: at least one file has a problem.

    \b
    Examples:
      sidecar check plans.yaml
      sidecar check --strict plans.yaml
    """
    from sidecar.config.loading import load
    from sidecar.errors import ConfigError

    invalid = 0
    for file in files:
        try:
            book = load(file)
            for warning in book.warnings:
                echo(warning)
            invalid += strict and bool(book.warnings)
            echo(f"{file}: ok: {summary(book)}")
        except ConfigError as error:
            invalid += 1
            for problem in error.problems:
                echo(str(problem))
    return 1 if invalid else 0


def summary(book: "PlanBook") -> str:
    """The numbers of parts and the version of a plan book: "4 plans, 9 routes, …, sha256:…"."""
    counts = {
        "plan": len(book.plans),
        "route": len(book.routes),
        "meter": len(book.meters),
        "account": len(book.accounts),
        "key": len(book.keys),
    }
    if book.warnings:
        counts["warning"] = len(book.warnings)
    parts = [f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items()]
    return ", ".join([*parts, book.version])


def schema() -> int:
    """Print the JSON Schema of plan files, for editors.

    \b
    Example:
      sidecar schema > plans.schema.json
      # then, as the first line of plans.yaml:
      # yaml-language-server: $schema=plans.schema.json
    """
    from sidecar.config.schema import schema as plan_schema

    echo(json.dumps(plan_schema(), indent=2, ensure_ascii=False))
    return 0
