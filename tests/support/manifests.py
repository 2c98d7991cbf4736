"""Kubernetes manifests for tests: one of each kind, and strategies that generate many."""

import copy
from typing import Any

from hypothesis import strategies as st

from sidecar.kubernetes.options import Options

Object = dict[str, Any]
OPTIONS = Options(plans="shop-plans", redis_secret="shop-redis")
API_VERSIONS = {
    "Deployment": "apps/v1", "StatefulSet": "apps/v1", "DaemonSet": "apps/v1",
    "Job": "batch/v1", "CronJob": "batch/v1", "Pod": "v1",
}  # fmt: skip


def template(**spec: Any) -> Object:
    """A pod template with one container, whose port is named http."""
    container = {
        "name": "shop",
        "image": "shop:1",
        "ports": [{"name": "http", "containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
    }
    return {"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [container], **spec}}


def workload(kind: str = "Deployment", pod: Object | None = None, name: str = "shop") -> Object:
    """A workload with this pod template."""
    pod = copy.deepcopy(template() if pod is None else pod)
    head = {"apiVersion": API_VERSIONS[kind], "kind": kind}
    metadata = {"name": name, "namespace": "prod"}
    if kind == "Pod":
        return {**head, "metadata": {**metadata, **pod.get("metadata", {})}, "spec": pod["spec"]}
    spec: Object = {"template": pod}
    if kind in ("Deployment", "StatefulSet", "DaemonSet"):
        spec["selector"] = {"matchLabels": {"app": "shop"}}
    if kind == "CronJob":
        spec = {"schedule": "0 3 * * *", "jobTemplate": {"spec": spec}}
    return {**head, "metadata": metadata, "spec": spec}


def pod_of(one: Object) -> Object:
    """The pod template of a workload."""
    if one["kind"] == "Pod":
        return one
    spec = one["spec"]
    found: Object = (spec["jobTemplate"]["spec"] if one["kind"] == "CronJob" else spec)["template"]
    return found


def service(*ports: Object, selector: Object | None = None, **spec: Any) -> Object:
    """A Service for these pods."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "shop", "namespace": "prod"},
        "spec": {"selector": selector or {"app": "shop"}, "ports": list(ports), **spec},
    }


_names = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
_numbers = st.integers(1, 65_535)
_words = st.sampled_from(["1e3", "yes", "y", "12:30", "0x1f", "~", "plain", "a: b", "two\nlines\n"])


@st.composite
def _probes(draw: st.DrawFn, ports: list[Object]) -> Object:
    """Probes and hooks, some of which name a port of the container."""
    found: Object = {}
    targets: list[Any] = [port["containerPort"] for port in ports]
    targets += [port["name"] for port in ports if "name" in port]
    for name in draw(st.sets(st.sampled_from(["startupProbe", "readinessProbe", "livenessProbe"]))):
        kind = draw(st.sampled_from(["httpGet", "tcpSocket"]))
        found[name] = {kind: {"port": draw(st.sampled_from(targets))}, "periodSeconds": 3}
    hook = draw(st.sampled_from([None, {}, {"postStart": {}}, {"preStop": {}}]))
    if hook is not None:
        action = {"httpGet": {"path": "/", "port": draw(st.sampled_from(targets))}}
        found["lifecycle"] = dict.fromkeys(hook, action)
    return found


@st.composite
def templates(draw: st.DrawFn) -> Object:
    """A pod template whose first container has the API's port."""
    count = draw(st.integers(1, 4))
    numbers = draw(st.lists(_numbers, min_size=count, max_size=count, unique=True))
    names = draw(st.lists(_names, min_size=count, max_size=count, unique=True))
    ports: list[Object] = []
    for number, name in zip(numbers, names, strict=True):
        port: Object = {"containerPort": number}
        port |= draw(st.sampled_from([{}, {"name": name}, {"protocol": "TCP"}]))
        port |= draw(st.sampled_from([{}, {"hostPort": number}]))
        ports.append(port)
    split = draw(st.integers(1, count))
    containers: list[Object] = []
    for name, own in (("api", ports[:split]), ("other", ports[split:])):
        container: Object = {"name": name, "image": f"{name}:1"}
        if own:
            container |= {"ports": own, **draw(_probes(own))}
            containers.append(container)
    for container in containers:
        values = draw(st.lists(_words, max_size=2))
        container["env"] = [{"name": f"V{i}", "value": value} for i, value in enumerate(values)]
    spec: Object = {"containers": containers}
    optional = {
        "initContainers": st.sampled_from([[], [{"name": "migrate", "image": "migrate:1"}]]),
        "volumes": st.sampled_from([[], [{"name": "data", "emptyDir": {}}]]),
        "terminationGracePeriodSeconds": st.integers(0, 900),
        "hostNetwork": st.booleans(),
        "restartPolicy": st.sampled_from(["Always", "Never"]),
    }
    for key in draw(st.sets(st.sampled_from(sorted(optional)))):
        spec[key] = draw(optional[key])
    pod: Object = {"spec": spec}
    metadata = st.sampled_from([
        None, {}, {"labels": {"app": "shop"}},
        {"labels": {"app": "shop", "tier": "api"}, "annotations": {}},
        {"labels": {"app": "shop"}, "annotations": {"quota-sidecar.dev/cpu": "1", "x": "y"}},
    ])  # fmt: skip
    chosen = draw(metadata)
    return pod if chosen is None else {"metadata": chosen, **pod}


@st.composite
def manifests(draw: st.DrawFn) -> tuple[list[Object], str]:
    """The documents of a manifest, and the number of the API's port."""
    pod = draw(templates())
    ports = pod["spec"]["containers"][0]["ports"]
    api = draw(st.sampled_from(ports))
    kind = draw(st.sampled_from(sorted(API_VERSIONS)))
    documents = [workload(kind, pod)]
    targets = [port["containerPort"] for port in ports] + [p["name"] for p in ports if "name" in p]
    for _ in range(draw(st.integers(0, 2))):
        exposed = []
        for number in draw(st.sets(_numbers | st.just(api["containerPort"]), max_size=3)):
            target = draw(st.sampled_from([None, *targets]))
            exposed.append({"port": number} | ({} if target is None else {"targetPort": target}))
        documents.append(service(*exposed))
    if draw(st.booleans()):
        documents = [{"apiVersion": "v1", "kind": "List", "items": documents}]
    return copy.deepcopy(documents), str(api["containerPort"])
