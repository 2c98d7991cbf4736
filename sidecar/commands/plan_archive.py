"""The commands `sidecar plans list` and `sidecar plans show`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from sidecar.commands.options import CONFIG, REDIS, REDIS_PREFIX, SPOOL, Command
from sidecar.commands.output import cell, echo
from sidecar.errors import SpoolError

if TYPE_CHECKING:
    from sidecar.stores.plan_file_reader import PlanFileReader

_T = TypeVar("_T")


def app() -> typer.Typer:
    """Return the command group `sidecar plans`."""
    group = typer.Typer(
        help="Show the plan files behind usage events.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command("list", cls=Command)(list_versions)
    group.command("show", cls=Command)(show)
    return group


def list_versions(
    spool: SPOOL = None,
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """List the plan files of the spool, then others of Redis, by version.

    Each place lists the oldest first.

    \b
    Example:
      sidecar plans list --spool /var/spool/sidecar
    """
    from sidecar.config.archive import versions
    from sidecar.errors import StoreUnavailable

    directory, reader = _places(spool, redis, redis_prefix, config)
    listed = _read(directory, versions) if directory.exists() else []
    try:
        listed += reader.versions()
    except StoreUnavailable as error:
        if not directory.exists():
            raise
        echo(f"note: these are the versions of the spool: {error}", err=True)
    for version in dict.fromkeys(listed):
        echo(cell(version))
    return 0


def show(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Version of a usage event.")],
    spool: SPOOL = None,
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """Print a plan file by its version, from the spool or from Redis.

    \b
    Examples:
      sidecar plans show sha256:2c26… --spool /var/spool/sidecar
      sidecar plans show sha256:2c26… --redis redis://redis:6379/0
    """
    from sidecar.config.archive import find

    directory, reader = _places(spool, redis, redis_prefix, config)
    text = _read(directory, lambda place: find(place, version)) if directory.exists() else None
    if text is None:
        text = _find_in_redis(reader, directory, version)
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()
    return 0


def _places(
    spool: str | None, redis: str | None, redis_prefix: str | None, config: str | None
) -> "tuple[Path, PlanFileReader]":
    from sidecar.settings import load_subset
    from sidecar.stores.plan_file_reader import PlanFileReader

    given = {"config": config, "spool": spool, "redis": redis, "redis_prefix": redis_prefix}
    settings = load_subset(*given, **given)
    reader = PlanFileReader(settings.redis.get_secret_value(), settings.redis_prefix)
    return settings.spool, reader


def _read(directory: Path, read: Callable[[Path], _T]) -> _T:
    try:
        return read(directory)
    except OSError as error:
        raise SpoolError(f"--spool: {directory} cannot be read: {error.strerror}") from None


def _find_in_redis(reader: "PlanFileReader", directory: Path, version: str) -> bytes:
    from sidecar.errors import StoreUnavailable

    where = "and neither has Redis"
    try:
        text = reader.find(version)
    except StoreUnavailable as error:
        problem, _, _ = str(error).partition("; ")
        text, where = None, f"and {problem}"
    if text is None:
        raise SpoolError(
            f'--spool: {directory} has no plan file of version "{version}", {where}; '
            "list the versions with sidecar plans list"
        )
    return text
