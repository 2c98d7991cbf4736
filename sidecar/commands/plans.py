"""check and schema: for whoever writes the plan file."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sidecar.core.model import PlanBook


def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Plan files.")],
) -> int:
    """Check plan files; for people and for CI.

    Prints every problem as file:line:column: path: what is wrong; what to write instead.
    Exit code 0: all are fine, 1: at least one has a problem.

    \b
    Example:
      sidecar check plans.yaml
    """
    from sidecar.config.loading import load
    from sidecar.errors import ConfigError

    wrong = 0
    for file in files:
        try:
            typer.echo(f"{file}: ok: {summary(load(file))}")
        except ConfigError as error:
            wrong += 1
            for problem in error.problems:
                typer.echo(str(problem))
    return 1 if wrong else 0


def summary(book: "PlanBook") -> str:
    """What a plan book holds, in one line: "4 plans, 9 routes, …, sha256:…"."""
    counts = {
        "plan": len(book.plans),
        "route": len(book.routes),
        "meter": len(book.meters),
        "account": len(book.accounts),
        "key": len(book.keys),
    }
    parts = [f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items()]
    return ", ".join([*parts, book.version])


def schema() -> int:
    """Print the JSON Schema of plan files, for editors that complete and check.

    \b
    Example:
      sidecar schema > plans.schema.json
      # and as the first line of plans.yaml:
      # yaml-language-server: $schema=plans.schema.json
    """
    from sidecar.config.schema import schema as plan_schema

    typer.echo(json.dumps(plan_schema(), indent=2, ensure_ascii=False))
    return 0
