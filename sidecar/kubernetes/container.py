"""The sidecar's container and volumes, the same by inject, by the webhook and by the chart."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar import __version__
from sidecar.kubernetes.names import (
    CONTAINER,
    CONTROL_PORT,
    DATA_PORT,
    PLANS_KEY,
    PLANS_VOLUME,
    REDIS_KEY,
    SPOOL_VOLUME,
)
from sidecar.kubernetes.parts import Object

IMAGE: Final = f"quota-sidecar:{__version__}"
PORT: Final = 8080
CONTROL: Final = 9090
USER: Final = 65532  # of the image
PLANS_FOLDER: Final = "/etc/quota-sidecar"
SPOOL_FOLDER: Final = "/var/spool/sidecar"
CPU: Final = "100m"
MEMORY: Final = "128Mi"
MEMORY_LIMIT: Final = "256Mi"
DRAIN: Final = ("python", "-P", "-m", "sidecar.commands.drain")


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """What differs from one sidecar to another.

    `plans` is the name of a ConfigMap. One of `redis_secret`, the name of a Secret, and `redis`, a
    URL, is set. Without `namespace`, the pod learns its own. `exposed` has `hostPort` and `hostIP`
    of the data port, if it has them. `memory`: request and limit.
    """

    plans: str
    api_port: int
    workload: str
    namespace: str | None = None
    redis_secret: str | None = None
    redis: str | None = None
    image: str = IMAGE
    port: int = PORT
    port_name: str = DATA_PORT
    control_port: int = CONTROL
    source: str | None = None
    sinks: str | None = None
    cpu: str | None = None
    memory: str | None = None
    exposed: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


def sidecar_container(spec: ContainerSpec) -> Object:
    """The native sidecar: an init container that runs until all other containers have ended."""
    return {
        "name": CONTAINER,
        "image": spec.image,
        "restartPolicy": "Always",
        "ports": [
            {
                "name": spec.port_name,
                "containerPort": spec.port,
                "protocol": "TCP",
                **spec.exposed,
            },
            {"name": CONTROL_PORT, "containerPort": spec.control_port, "protocol": "TCP"},
        ],
        "env": _environment(spec),
        # The pod is ready only if the sidecar is. The API starts after the first of these.
        "startupProbe": _probe("/readyz", period=1, failures=60),
        "readinessProbe": _probe("/readyz", period=2, failures=2),
        "livenessProbe": _probe("/healthz", period=10, failures=3),
        # Clients go elsewhere while the API still runs; SIGTERM comes after the API's end.
        "lifecycle": {"preStop": {"exec": {"command": list(DRAIN)}}},
        "resources": {
            "requests": {"cpu": spec.cpu or CPU, "memory": spec.memory or MEMORY},
            "limits": {"memory": spec.memory or MEMORY_LIMIT},
        },
        # The `restricted` pod security standard, and a read-only root.
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": PLANS_VOLUME, "mountPath": PLANS_FOLDER, "readOnly": True},
            {"name": SPOOL_VOLUME, "mountPath": SPOOL_FOLDER},
        ],
    }


def sidecar_volumes(spec: ContainerSpec) -> list[Object]:
    """The pod's volumes for the container. The spool lives as long as the pod."""
    return [
        {"name": PLANS_VOLUME, "configMap": {"name": spec.plans}},
        {"name": SPOOL_VOLUME, "emptyDir": {}},
    ]


def _environment(spec: ContainerSpec) -> list[Object]:
    """The environment variables. A variable may use those before it."""
    namespace = spec.namespace or "$(POD_NAMESPACE)"
    own = {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}
    values = {
        "SIDECAR_UPSTREAM": f"http://127.0.0.1:{spec.api_port}",
        "SIDECAR_PLANS": f"{PLANS_FOLDER}/{PLANS_KEY}",
        "SIDECAR_LISTEN": f"0.0.0.0:{spec.port}",
        "SIDECAR_CONTROL": f"0.0.0.0:{spec.control_port}",
        "SIDECAR_SOURCE": spec.source or f"/sidecar/{namespace}/{spec.workload}",
    }
    variables: list[Object] = [] if spec.namespace or spec.source else [own]
    variables += [{"name": name, "value": value} for name, value in values.items()]
    if spec.redis_secret is not None:
        key = {"name": spec.redis_secret, "key": REDIS_KEY}
        variables.append({"name": "SIDECAR_REDIS", "valueFrom": {"secretKeyRef": key}})
    more = dict(spec.env)
    if spec.redis is not None:
        more["SIDECAR_REDIS"] = spec.redis
    if spec.sinks is not None:
        more["SIDECAR_SINKS"] = spec.sinks
    for name, value in sorted(more.items()):  # as they are: Kubernetes expands $(NAME)
        variables.append({"name": name, "value": value.replace("$(", "$$(")})
    return variables


def _probe(path: str, *, period: int, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": CONTROL_PORT},
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    }
