"""Options about the injected sidecar, which `inject` and `webhook` share."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from sidecar.errors import SettingsError
from sidecar.kubernetes.options import Options
from sidecar.redis_address import redis_address
from sidecar.settings import all_settings
from sidecar.settings.subset import check_variables

PLANS_CONFIG_MAP = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="ConfigMap with the plan file in its key plans.yaml."),
]
REDIS_SECRET = Annotated[
    str | None, typer.Option(metavar="NAME", help="Secret with the URL of Redis in its key url.")
]
API_PORT = Annotated[
    str | None,
    typer.Option(
        metavar="PORT", help="Number or name of the API's port. Default: the pod's only port."
    ),
]
PORT = Annotated[
    str | None,
    typer.Option(
        metavar="PORT", help="The sidecar's data port. Default: 8080; 18080 if the pod uses that."
    ),
]
CONTROL_PORT = Annotated[
    str | None,
    typer.Option(
        metavar="PORT", help="The control port. Default: 9090; 19090 if the pod uses that."
    ),
]
IMAGE = Annotated[
    str | None, typer.Option(metavar="IMAGE", help="Image. Default: quota-sidecar:VERSION.")
]
SOURCE = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Source of usage events. Default: /sidecar/NAMESPACE/WORKLOAD."
    ),
]
SINKS = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Sinks of usage events, comma-separated: stdout, redis."),
]
CPU = Annotated[str | None, typer.Option(metavar="QUANTITY", help="CPU request. Default: 100m.")]
MEMORY = Annotated[
    str | None,
    typer.Option(
        metavar="QUANTITY", help="Memory request and limit. Default: request 128Mi, limit 256Mi."
    ),
]
STOP_DELAY = Annotated[
    str | None,
    typer.Option(
        metavar="SECONDS",
        help="Time that the API runs on when its pod ends. 0: none. Default: the drain delay plus "
        "1 s.",
    ),
]
ENV = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Setting of the sidecar as environment variable; may be repeated.",
    ),
]

# Settings that an option of its own sets, or that fit no pod.
_MANAGED: Final = {
    "SIDECAR_UPSTREAM": "--api-port", "SIDECAR_PLANS": "--plans", "SIDECAR_LISTEN": "--port",
    "SIDECAR_CONTROL": "--control-port", "SIDECAR_SOURCE": "--source",
    "SIDECAR_REDIS": "--redis-secret", "SIDECAR_SINKS": "--sinks",
}  # fmt: skip
_NOT_IN_A_POD: Final = {"SIDECAR_CONFIG", "SIDECAR_SPOOL"}
_HIDDEN: Final = "SIDECAR_WEBHOOK_SECRET"


def checked(*, env: list[str] | None, **chosen: Any) -> Options:
    """The options of a command line. Raises SettingsError for one that cannot be."""
    options = Options(**chosen, env=dict(map(_variable, env or ())))
    _check_env(options.env)
    for name, message in options.problems():
        flag = "plans-config-map" if name == "plans" else name.replace("_", "-")
        raise SettingsError(f"--{flag}: {message}")
    if options.redis is not None:
        _check_redis(options.redis)
    return options


def _check_env(variables: Mapping[str, str]) -> None:
    """Raise SettingsError for a value with which the sidecar of a pod would not start."""
    try:
        check_variables(variables)
    except SettingsError as error:
        first, *_ = str(error).splitlines()
        raise SettingsError(f"--env: {first}") from None


def _check_redis(url: str) -> None:
    try:
        address = redis_address(url)
    except ValueError as error:
        raise SettingsError(f"--redis: {error}") from None
    if address.password is not None or address.sentinel_password is not None:
        raise SettingsError(
            "--redis: the URL has a password, which the manifest would show; put it into a Secret "
            "and set --redis-secret"
        )


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    known = {setting.env for setting in all_settings()}
    if not equals:
        raise SettingsError("--env: this is not a variable; write NAME=VALUE")
    if name in _MANAGED:
        raise SettingsError(f"--env: {name} has an option; set {_MANAGED[name]}")
    if name == _HIDDEN:
        raise SettingsError(f"--env: {name} is a secret, which the manifest would show; remove it")
    if name not in known - _NOT_IN_A_POD:
        raise SettingsError(f'--env: "{name[:80]}" is not a setting of a pod; see {_PAGE}')
    return name, value


_PAGE: Final = "docs/reference/settings.md"
