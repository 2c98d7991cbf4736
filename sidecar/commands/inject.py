"""The commands `sidecar inject` and `sidecar uninject`, which patch Kubernetes manifests."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from sidecar.commands.kubernetes_options import (
    API_PORT,
    CONTROL_PORT,
    CPU,
    ENV,
    IMAGE,
    MEMORY,
    PLANS_CONFIG_MAP,
    PORT,
    REDIS_SECRET,
    SINKS,
    SOURCE,
    STOP_DELAY,
    checked,
)
from sidecar.commands.output import echo

if TYPE_CHECKING:
    from sidecar.kubernetes.manifests import Patched

STDIN: Final = "-"
FILE = Annotated[
    str, typer.Argument(metavar="FILE", help="Path of the manifest; - for standard input.")
]


def inject(
    file: FILE,
    plans: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Path of the plan file, which becomes a ConfigMap."),
    ] = None,
    plans_config_map: PLANS_CONFIG_MAP = None,
    redis_secret: REDIS_SECRET = None,
    redis: Annotated[
        str | None,
        typer.Option(metavar="URL", help="URL of Redis, without password, in place of a Secret."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND/NAME",
            help="Workload that gets the sidecar; may be repeated. Default: the annotated ones, or "
            "the only one.",
        ),
    ] = None,
    api_port: API_PORT = None,
    port: PORT = None,
    control_port: CONTROL_PORT = None,
    image: IMAGE = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Namespace in --source, if the manifest has none. Default: the pod's.",
        ),
    ] = None,
    source: SOURCE = None,
    sinks: SINKS = None,
    cpu: CPU = None,
    memory: MEMORY = None,
    stop_delay: STOP_DELAY = None,
    env: ENV = None,
) -> int:
    """Put the sidecar into the workloads of a Kubernetes manifest.

    Prints the manifest with the sidecar as YAML, and notes on standard error. The input may have
    the sidecar already: it is replaced. Exit code 2, and no output, if a part does not fit.

    \b
    Examples:
      kubectl get deploy shop -o yaml | sidecar inject --plans plans.yaml \\
          --redis-secret shop-redis - | kubectl apply -f -
      sidecar inject --plans plans.yaml --redis-secret shop-redis --only deployment/shop shop.yaml
    """
    from sidecar.errors import SettingsError
    from sidecar.kubernetes.manifests import inject as patch

    if plans is not None and plans_config_map is not None:
        raise SettingsError("give one of --plans and --plans-config-map")
    options = checked(
        plans=plans_config_map, redis_secret=redis_secret, redis=redis, api_port=api_port,
        port=port, control_port=control_port, image=image, namespace=namespace, source=source,
        sinks=sinks, cpu=cpu, memory=memory, stop_delay=stop_delay, env=env,
    )  # fmt: skip
    plan_file = None if plans is None else _plan_file(plans)
    name, documents = _read(file)
    return _print(patch(documents, options, file=name, plan_file=plan_file, only=only))


def uninject(file: FILE) -> int:
    """Remove the sidecar from a Kubernetes manifest.

    Prints the manifest as it was before `sidecar inject`, with all later changes by others.

    \b
    Examples:
      sidecar uninject shop.yaml
      kubectl get deploy,service shop -o yaml | sidecar uninject - | kubectl apply -f -
    """
    from sidecar.kubernetes.manifests import uninject as patch

    name, documents = _read(file)
    return _print(patch(documents, file=name))


def _plan_file(path: Path) -> str:
    """The text of a valid plan file. Raises ConfigError."""
    from sidecar.config.loading import read

    text, book = read(path)
    for warning in book.warnings:
        echo(warning, err=True)
    return text.decode("utf-8-sig")


def _read(file: str) -> tuple[str, list[dict[str, object]]]:
    """The name of the input for messages, and its documents. Raises ManifestError."""
    from sidecar.errors import ManifestError
    from sidecar.kubernetes.documents import MAX_BYTES, read

    if file == STDIN:
        if sys.stdin.isatty():
            echo("Reading the manifest from the terminal; end it with Ctrl-D.", err=True)
        return "standard input", read(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input")
    try:
        with Path(file).open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ManifestError(f"{file}: cannot be read: {reason}; name another file") from None
    return file, read(content, file)


def _print(patched: "Patched") -> int:
    from sidecar.kubernetes.documents import write

    for note in patched.notes:
        echo(f"note: {note}", err=True)
    sys.stdout.write(write(patched.documents))
    return 0
