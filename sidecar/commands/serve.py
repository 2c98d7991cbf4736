"""Commands that run a sidecar: serve and demo; and version."""

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
from sidecar.redis_address import redis_address
from sidecar.settings import SettingInfo, Settings, all_settings, unknown_variables

SERVE_HELP = """Run the sidecar in front of an API.

Each setting is an option, an environment variable and a key of the settings file. The first of
these that is given applies. SIGHUP reloads plan file and certificate, SIGTERM drains and stops.

\b
Examples:
  sidecar serve --plans plans.yaml --upstream http://127.0.0.1:3000
  sidecar serve --plans plans.yaml --upstream http://127.0.0.1:3000 \\
      --listen 0.0.0.0:8080 --control 127.0.0.1:9090 \\
      --redis redis://redis:6379/0 --spool /var/spool/sidecar
  SIDECAR_REDIS=rediss://user:secret@redis:6380/0 sidecar serve --config sidecar.yaml
"""


def serve(**flags: Any) -> int:
    """Run a sidecar and return its exit code.

    Raises SettingsError, ConfigError or SpoolError if it cannot start.
    """
    settings = _settings(flags)
    count = _workers(settings.workers)
    if count == 1:
        from sidecar.serve.single import run

        return run(settings)
    from sidecar.serve.workers.supervisor import run as supervise

    return supervise(settings, count)


def _settings(flags: dict[str, Any]) -> Settings:
    """The settings, after a warning for each unknown variable.

    Raises SettingsError with these warnings: a misspelt variable may be the missing one.
    """
    from sidecar.logs import configure, logger

    unknown = unknown_variables(os.environ, [setting.env for setting in all_settings()])
    try:
        settings = Settings.load(flags)
    except SettingsError as error:
        raise SettingsError(str(error), unknown) from None
    configure(settings.log_level, settings.log_format)
    log = logger("settings")
    for message in unknown:
        log.warning("unknown_variable", error=message)
    for setting in _secrets_in(flags):
        log.warning(
            "secret_on_command_line",
            flag=setting.flag,
            remedy=f"set {setting.env}; users of this machine can read the flags of a process",
        )
    return settings


def _secrets_in(flags: dict[str, Any]) -> list[SettingInfo]:
    """The flags that contain a secret, which the process list shows."""
    given = {
        "redis": flags.get("redis") and redis_address(flags["redis"]).has_password,
        "webhook_secret": flags.get("webhook_secret"),
    }
    return [setting for setting in all_settings() if given.get(setting.name)]


def _workers(setting: str) -> int:
    from sidecar.serve.workers.cpus import allowed_cpus

    return allowed_cpus() if setting == "auto" else int(setting)


def with_settings_flags(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command one option per setting, by replacing its signature."""
    parameters = []
    for setting in all_settings():
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
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def demo(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address of the sidecar, or unix:/PATH.")
    ] = "127.0.0.1:8080",
    control: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address of the control port.")
    ] = "127.0.0.1:9090",
    plans: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Path of a plan file. Default: examples/plans.yaml."),
    ] = None,
) -> int:
    """Run the sidecar, a sample API and Valkey on this machine.

    Prints commands to paste into another terminal, and each decision. Ctrl-C stops everything.

    \b
    Examples:
      sidecar demo
      sidecar demo --listen 127.0.0.1:8181 --control 127.0.0.1:9191
    """
    from sidecar.demo import run

    return run(listen=listen, control=control, plans=plans)


def is_compiled() -> bool:
    """Whether this installation was built with SIDECAR_COMPILE=1."""
    spec = find_spec("sidecar.metrics")
    return spec is not None and not (spec.origin or ".py").endswith(".py")


def version_line() -> str:
    """The version of the package, that of Python, and whether the data path is compiled."""
    data_path = "compiled" if is_compiled() else "interpreted"
    return f"quota-sidecar {__version__} (Python {platform.python_version()}, {data_path})"


def version() -> int:
    """Print the version.

    \b
    Example:
      sidecar version
    """
    typer.echo(version_line())
    return 0
