"""What the rendered manifests say of a pod: its containers, probes, hooks and times."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import helm_python
import yaml

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "helm" / "sidecar"
SHOP: Final = ROOT / "examples" / "helm" / "shop"
SIDECAR: Final = "quota-sidecar"
Object = dict[str, Any]


@dataclass(frozen=True)
class Probe:
    """An HTTP probe of a port. The port has the container's name for it."""

    path: str
    port: str
    period_s: float
    failures: int


@dataclass(frozen=True)
class Hook:
    """A preStop hook: a command, or a pause."""

    command: tuple[str, ...] = ()
    sleep_s: float = 0.0


@dataclass(frozen=True)
class Container:
    """A container. `native`: it starts before the others and ends after them."""

    name: str
    native: bool
    env: Mapping[str, str]
    startup: Probe | None
    readiness: Probe | None
    pre_stop: Hook | None


@dataclass(frozen=True)
class Pod:
    """A pod. `surge`: pods that a rolling update may have beyond the wanted number."""

    containers: tuple[Container, ...]
    grace_s: float
    replicas: int
    surge: int
    min_ready_s: float

    def without_hooks(self) -> "Pod":
        """The same pod, whose containers have no preStop hook."""
        return replace(self, containers=tuple(replace(c, pre_stop=None) for c in self.containers))


def gateway(settings: Mapping[str, object]) -> Pod:
    """A pod of the gateway."""
    values = {
        "plans": {"configMap": "plans"},
        "redis": {"existingSecret": "redis"},
        "gateway": {"upstream": "http://shop.default.svc:80"},
        "settings": dict(settings),
    }
    with helm_python.Chart.load(CHART) as chart:
        return pod_of(_workload(chart.render(values, name="gateway", namespace="prod")))


def application(settings: Mapping[str, object], directory: Path) -> Pod:
    """A pod of the example application. `directory` gets its chart with the dependency."""
    shop = directory / "shop"
    shutil.copytree(SHOP, shop)
    shutil.copytree(CHART, shop / "charts" / CHART.name)
    with helm_python.Chart.load(shop) as chart:
        return pod_of(_workload(chart.render({SIDECAR: {"settings": dict(settings)}}, name="shop")))


def _workload(texts: Mapping[str, str]) -> Object:
    """The only Deployment or StatefulSet."""
    files = [text for name, text in texts.items() if name.endswith(".yaml")]
    found = [one for text in files for one in yaml.safe_load_all(text) if one]
    [workload] = [one for one in found if one["kind"] in ("Deployment", "StatefulSet")]
    return dict(workload)


def pod_of(workload: Object) -> Pod:
    """The pod of a workload."""
    spec = workload["spec"]
    pod = spec["template"]["spec"]
    containers = [
        *(_container(one, native=True) for one in pod.get("initContainers", [])),
        *(_container(one, native=False) for one in pod["containers"]),
    ]
    return Pod(
        containers=tuple(containers),
        grace_s=pod.get("terminationGracePeriodSeconds", 30),
        replicas=spec.get("replicas", 2),
        # A Deployment may have a quarter more, rounded up. A StatefulSet replaces in place.
        surge=-(-spec["replicas"] // 4) if workload["kind"] == "Deployment" else 0,
        min_ready_s=spec.get("minReadySeconds", 0),
    )


def _container(part: Object, *, native: bool) -> Container:
    if native:
        assert part["restartPolicy"] == "Always", "an init container that is not a sidecar"
    hook = part.get("lifecycle", {}).get("preStop")
    return Container(
        name=part["name"],
        native=native,
        env={one["name"]: one.get("value", "") for one in part.get("env", [])},
        startup=_probe(part.get("startupProbe")),
        readiness=_probe(part.get("readinessProbe")),
        pre_stop=_hook(hook) if hook else None,
    )


def _probe(part: Object | None) -> Probe | None:
    if part is None:
        return None
    get = part["httpGet"]
    return Probe(
        get["path"], get["port"], part.get("periodSeconds", 10), part.get("failureThreshold", 3)
    )


def _hook(part: Object) -> Hook:
    if "sleep" in part:
        return Hook(sleep_s=part["sleep"]["seconds"])
    return Hook(command=tuple(part["exec"]["command"]))
