"""Names of the sidecar in Kubernetes objects."""

from typing import Final

PREFIX: Final = "quota-sidecar.dev/"  # of annotations

CONTAINER: Final = "quota-sidecar"
PLANS_VOLUME: Final = "quota-sidecar-plans"
SPOOL_VOLUME: Final = "quota-sidecar-spool"
DATA_PORT: Final = "http"  # the name of the data port, unless the API's port has one
CONTROL_PORT: Final = "control"
PLANS_KEY: Final = "plans.yaml"  # in the ConfigMap
REDIS_KEY: Final = "url"  # in the Secret

INJECT: Final = PREFIX + "inject"
STATUS: Final = PREFIX + "status"
INJECTED: Final = "injected"  # the value of STATUS
ORIGINAL: Final = PREFIX + "original"  # what uninject restores, as JSON
