"""The objects that the checks apply."""

import json
from typing import Any, Final

Object = dict[str, Any]
NAMESPACE: Final = "shop"
NODE: Final = "node"
API_VERSIONS: Final = {
    "Deployment": "apps/v1", "StatefulSet": "apps/v1", "DaemonSet": "apps/v1",
    "Job": "batch/v1", "CronJob": "batch/v1", "Pod": "v1",
}  # fmt: skip


def manifest(documents: list[Object]) -> str:
    """Several objects as one text."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})


def node() -> Object:
    """A node, on which nothing runs."""
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}


def namespace() -> Object:
    """A namespace that enforces the `restricted` pod security standard, and warns of it."""
    standard = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": standard},
    }


def template(app: str, kind: str = "Deployment", **annotations: str) -> Object:
    """A pod template that the standard allows, with a port named http and a probe that uses it."""
    notes = {f"quota-sidecar.dev/{name.replace('_', '-')}": v for name, v in annotations.items()}
    container = {
        "name": "api",
        "image": "shop:1",
        "ports": [{"name": "http", "containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    spec: Object = {"containers": [container]}
    if kind in ("Job", "CronJob"):
        spec["restartPolicy"] = "Never"
    metadata: Object = {"labels": {"app": app}}
    if notes:
        metadata["annotations"] = notes
    return {"metadata": metadata, "spec": spec}


def workload(kind: str, name: str, pod: Object | None = None) -> Object:
    """A workload of this kind."""
    pod = pod or template(name, kind)
    head = {"apiVersion": API_VERSIONS[kind], "kind": kind}
    metadata = {"name": name, "namespace": NAMESPACE}
    if kind == "Pod":
        return {**head, "metadata": {**pod["metadata"], **metadata}, "spec": pod["spec"]}
    spec: Object = {"template": pod}
    if kind in ("Deployment", "StatefulSet", "DaemonSet"):
        spec["selector"] = {"matchLabels": {"app": name}}
    if kind == "StatefulSet":
        spec["serviceName"] = name
    if kind == "CronJob":
        spec = {"schedule": "* * * * *", "jobTemplate": {"spec": spec}}
    return {**head, "metadata": metadata, "spec": spec}


def service(name: str, target: str | int) -> Object:
    """A Service for the pods of this workload."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": target}]},
    }
