"""serve, demo and version."""

import inspect
import os
import platform
from collections.abc import Callable
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from sidecar import __version__
from sidecar.commands.options import flag_of
from sidecar.errors import SettingsError
from sidecar.settings import Settings, described, unknown_variables

SERVE_HELP = """Run the sidecar in front of an API.

Every setting is a flag, a variable and a key of the settings file; the first of these that
is given counts. SIGHUP reads plan file and certificate again, SIGTERM drains and stops.

\b
Examples:
  sidecar serve --plans plans.yaml --upstream http://127.0.0.1:3000
  sidecar serve --plans plans.yaml --upstream http://127.0.0.1:3000 \\
      --listen 0.0.0.0:8080 --control 127.0.0.1:9090 \\
      --redis redis://redis:6379/0 --spool /var/spool/sidecar
  SIDECAR_REDIS=rediss://user:secret@redis:6380/0 sidecar serve --config sidecar.yaml
"""


def serve(**flags: Any) -> int:
    """Returns the exit code of the process; raises SettingsError, ConfigError, SpoolError."""
    settings = _settings(flags)
    count = _workers(settings.workers)
    if count == 1:
        from sidecar.serve.single import run

        return run(settings)
    from sidecar.serve.workers.supervisor import run as supervise

    return supervise(settings, count)


def _settings(flags: dict[str, Any]) -> Settings:
    """Settings, and a warning for each variable that was perhaps meant to be one of them: it may
    be why another is missing. Raises SettingsError."""
    from sidecar.logs import configure, logger

    strange = unknown_variables(os.environ, [setting.env for setting in described()])
    try:
        settings = Settings.load(flags)
    except SettingsError as error:
        raise SettingsError("\n".join([str(error), *strange])) from None
    configure(settings.log_level, settings.log_format)
    for problem in strange:
        logger("settings").warning("unknown_variable", error=problem)
    return settings


def _workers(asked: str) -> int:
    from sidecar.serve.workers.cpus import allowed_cpus

    return allowed_cpus() if asked == "auto" else int(asked)


def with_settings_flags(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command one flag for each field of Settings: its signature is the model."""
    parameters = []
    for setting in described():
        kind: Any = bool | None if setting.switch else str | None
        parameters.append(
            inspect.Parameter(
                setting.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[kind, flag_of(setting)],
            )
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def demo(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the API is called; also unix:/PATH.")
    ] = "127.0.0.1:8080",
    control: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where health, metrics and config answer.")
    ] = "127.0.0.1:9090",
    plans: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A changed copy of examples/plans.yaml."),
    ] = None,
) -> int:
    """Run the sidecar, a sample API and a Valkey on this machine; Ctrl-C stops them all.

    Prints curl lines to try, and shows each decision as it is made.

    \b
    Examples:
      sidecar demo
      sidecar demo --listen 127.0.0.1:8181 --control 127.0.0.1:9191
    """
    from sidecar.demo import run

    return run(listen=listen, control=control, plans=plans)


def is_compiled() -> bool:
    """Whether what is installed was built with SIDECAR_COMPILE=1."""
    found = find_spec("sidecar.metrics")
    return found is not None and not (found.origin or ".py").endswith(".py")


def version_line() -> str:
    """Ours, Python's, and whether the data path is compiled."""
    path = ", compiled" if is_compiled() else ""
    return f"quota-sidecar {__version__} (Python {platform.python_version()}{path})"


def version() -> int:
    """Print the version.

    \b
    Example:
      sidecar version
    """
    typer.echo(version_line())
    return 0
