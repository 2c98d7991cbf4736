"""The command `sidecar webhook`, which patches the pods of a cluster."""

from typing import Annotated

import typer

from sidecar.commands.kubernetes_options import (
    CONTROL_PORT,
    CPU,
    ENV,
    IMAGE,
    MEMORY,
    PLANS_CONFIG_MAP,
    PORT,
    REDIS_SECRET,
    SINKS,
    STOP_DELAY,
    checked,
)
from sidecar.commands.options import CONFIG, LOG_FORMAT, LOG_LEVEL, TLS_CERT, TLS_KEY


def webhook(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address of the webhook.")
    ] = "0.0.0.0:8443",
    tls_cert: TLS_CERT = None,
    tls_key: TLS_KEY = None,
    plans_config_map: PLANS_CONFIG_MAP = None,
    redis_secret: REDIS_SECRET = None,
    port: PORT = None,
    control_port: CONTROL_PORT = None,
    image: IMAGE = None,
    sinks: SINKS = None,
    cpu: CPU = None,
    memory: MEMORY = None,
    stop_delay: STOP_DELAY = None,
    env: ENV = None,
    log_level: LOG_LEVEL = None,
    log_format: LOG_FORMAT = None,
    config: CONFIG = None,
) -> int:
    """Run the admission webhook, which puts the sidecar into annotated pods.

    The options about the sidecar apply to pods whose annotations say nothing else. A pod that
    cannot have the sidecar is admitted without it, with a warning.

    \b
    Example:
      sidecar webhook --tls-cert tls.crt --tls-key tls.key --redis-secret quota-redis
    """
    import asyncio

    from sidecar.errors import SettingsError
    from sidecar.kubernetes.webhook import serve
    from sidecar.logs import configure
    from sidecar.proxy.downstream.certificate import Certificate
    from sidecar.settings import load_subset, parse_address

    defaults = checked(
        plans=plans_config_map, redis_secret=redis_secret, port=port, control_port=control_port,
        image=image, sinks=sinks, cpu=cpu, memory=memory, stop_delay=stop_delay, env=env,
    )  # fmt: skip
    settings = load_subset(
        "config", "tls_cert", "tls_key", "log_level", "log_format", config=config,
        tls_cert=tls_cert, tls_key=tls_key, log_level=log_level, log_format=log_format,
    )  # fmt: skip
    try:
        address = parse_address(listen)
    except ValueError as error:
        raise SettingsError(f"--listen: {error}") from None
    if settings.tls_cert is None or settings.tls_key is None:
        raise SettingsError(
            "--tls-cert and --tls-key: one is missing; the API server needs TLS, set both"
        )
    configure(settings.log_level, settings.log_format)
    asyncio.run(serve(address, Certificate(settings.tls_cert, settings.tls_key), defaults))
    return 0
